"""The catalogue's entries about functions: what they do to the node that runs them."""

from pathlib import Path

import pytest

from tests.node import test_changing_files


def test_function_swaps_a_folder_for_a_link_while_root_empties_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "function swaps a folder for a link while root empties it": no file of the host changes."""
    test_changing_files.test_a_folder_that_becomes_a_link_changes_no_file_elsewhere(
        tmp_path, monkeypatch
    )


def test_function_swaps_a_folder_for_a_link_while_root_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "function swaps a folder for a link while root empties it": nor is it looked at."""
    test_changing_files.test_a_folder_that_becomes_a_link_is_not_looked_into(tmp_path, monkeypatch)
