"""`python -m tests.helpers.covered REPORT.json`: whether enough of each folder was run.

The report is coverage.py's. Lines and branches count by themselves: neither makes up for the other.
The status is 1 if a folder has less of either than `SHARE_MIN`.
"""

import json
import sys
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

FOLDERS: Final = ("core", "shards", "persistence")
SHARE_MIN: Final = 0.95


class Share(NamedTuple):
    """How much of a folder's lines and branches was run, from 0 to 1."""

    lines: float
    branches: float


def shares(report: dict[str, Any]) -> dict[str, Share]:
    """Return the shares of each folder; a folder without measurements has none of either."""
    found = {}
    for folder in FOLDERS:
        summaries = [
            file["summary"]
            for path, file in report["files"].items()
            if folder in PurePath(path).parts[:-1]
        ]
        found[folder] = Share(
            _share(summaries, "covered_lines", "num_statements"),
            _share(summaries, "covered_branches", "num_branches"),
        )
    return found


def _share(summaries: list[dict[str, int]], part: str, whole: str) -> float:
    count = sum(summary[whole] for summary in summaries)
    return sum(summary[part] for summary in summaries) / count if count else 0.0


def main() -> int:
    """Print the shares and judge them."""
    report = json.loads(Path(sys.argv[1]).read_text())
    found = shares(report)
    for folder, share in found.items():
        print(f"{folder:12} {share.lines:6.1%} of lines, {share.branches:6.1%} of branches")
    if all(min(share) >= SHARE_MIN for share in found.values()):
        return 0
    print(f"Each must be at least {SHARE_MIN:.0%}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
