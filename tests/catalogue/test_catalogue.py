"""Every entry of the bug catalogue has its test, and the page says which."""

import ast
import re
from pathlib import Path

import pytest

from .entries import ENTRIES

FOLDER = Path(__file__).parent


def proofs() -> dict[str, list[str]]:
    """The tests of each entry, by the quotation at the beginning of their docstrings."""
    found: dict[str, list[str]] = {entry: [] for entry in ENTRIES}
    for path in sorted(FOLDER.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                words = ast.get_docstring(node) or ""
                for entry in ENTRIES:
                    if node.name.startswith("test_") and words.startswith(f'"{entry}"'):
                        found[entry].append(f"{path.name} {node.name}")
    return found


def test_the_list_of_42_names_a_test_for_each_number() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)

    assert [int(number) for number, _ in rows] == list(range(1, 43))
    for _, tests in rows:
        named = re.findall(r"`(\S+)::(\w+)`", tests)
        assert named
        for path, name in named:
            assert f"def {name}(" in (FOLDER.parent / path).read_text(), (path, name)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_entry_has_a_test_and_a_row(entry: str) -> None:
    tests = proofs()[entry]
    rows = [line for line in (FOLDER / "README.md").read_text().splitlines() if entry in line]

    assert tests
    assert len(rows) == 1
    for test in tests:
        file, name = test.split()
        assert f"`{file}`" in rows[0]
        assert f"`{name}`" in rows[0]
