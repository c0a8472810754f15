"""The operator's key: made once, for nobody else to read, never half."""

from pathlib import Path

import pytest

from troth.http.identity.operator_key import FILE_NAME, OperatorKeyError, provide, read


def test_a_key_is_made_once(tmp_path: Path) -> None:
    key = provide(tmp_path)

    assert len(bytes.fromhex(key)) == 32
    assert provide(tmp_path) == read(tmp_path) == key
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_each_directory_has_another(tmp_path: Path) -> None:
    keys = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        keys.add(provide(tmp_path / name))

    assert len(keys) == 2


def test_what_others_could_read_they_cannot_any_more(tmp_path: Path) -> None:
    key = provide(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o644)

    assert provide(tmp_path) == key
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "x" * 64, "a" * 63, "a" * 64 + "\n\n", "ä"])
def test_a_file_with_something_else_is_no_key(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)

    with pytest.raises(OperatorKeyError, match="Remove it"):
        provide(tmp_path)


def test_half_a_key_of_a_crash_is_not_used(tmp_path: Path) -> None:
    (tmp_path / f"{FILE_NAME}.tmp").write_text("ab")

    assert len(provide(tmp_path)) == 64


def test_a_directory_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OperatorKeyError, match="cannot be read or made"):
        provide(tmp_path / "missing")
