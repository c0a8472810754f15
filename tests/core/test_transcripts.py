"""Replays the transcripts in tests/transcripts: the tables of rest.md, row by row.

With `TROTH_REWRITE=1` the expected output is written anew instead. Look at the difference, and
commit only what you understand and want.
"""

import os
from pathlib import Path

import pytest

from .transcript import Transcript

DIRECTORY = Path(__file__).parents[1] / "transcripts"
FILES = sorted(DIRECTORY.glob("*.txt"))


def replay(text: str) -> str:
    """The transcript with the output that its commands have now."""
    transcript = Transcript()
    lines: list[str] = []
    outputs: list[str] = []
    is_expected_output = False
    for line in text.splitlines():
        if line == "----":
            is_expected_output = True
            lines += [line, *filter(None, outputs)]
            outputs = []
        elif not line:
            is_expected_output = False
            lines.append(line)
        elif not is_expected_output:
            lines.append(line)
            if not line.startswith("#"):
                outputs.append(transcript.run(line))
    assert not outputs, "a block without ----"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    now = replay(written)
    if os.environ.get("TROTH_REWRITE"):
        path.write_text(now, encoding="utf-8")
        written = now

    assert now.splitlines() == written.splitlines()


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 9


def test_a_wrong_expectation_is_noticed() -> None:
    text = "create a timeout=5\n----\n20100 created | a RESOLVED timeout=5 created=0\n"

    assert replay(text) == text.replace("RESOLVED", "PENDING")
