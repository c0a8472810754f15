"""`python -m tests.mutation`: plant every fault, one at a time, and see which test notices.

The status is 0 only if all are caught. `--write` puts the table into README.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from random import Random

from .fault import Fault
from .faults import FAULTS
from .planting import Plantation, StaleFaultError, Verdict

PAGE = Path(__file__).parent / "README.md"
MARK = "<!-- the table is written by `python -m tests.mutation --write` -->\n"


def table(verdicts: list[Verdict]) -> str:
    """The verdicts as Markdown."""
    rows = [
        f"| {verdict.fault.name} | `{verdict.fault.file}` | {shown(verdict)} |"
        for verdict in verdicts
    ]
    caught_count = sum(verdict.caught_by is not None for verdict in verdicts)
    head = f"{caught_count} of {len(verdicts)} are caught.\n\n"
    return head + "\n".join(("| fault | in | caught by |", "|---|---|---|", *rows)) + "\n"


def shown(verdict: Verdict) -> str:
    """Which test it was, without what only this run is called."""
    if verdict.caught_by is None:
        return "**nothing**"
    place, _, test = verdict.caught_by.removeprefix("tests/").partition("::")
    return f"`{place}` `{test.partition('[')[0]}`" if test else verdict.caught_by


def chosen(arguments: argparse.Namespace) -> list[Fault]:
    """The faults that the arguments ask for."""
    faults = [fault for fault in FAULTS if arguments.only in fault.name]
    if arguments.count is not None:
        faults = Random(arguments.seed).sample(faults, min(arguments.count, len(faults)))
    return faults


def main() -> int:
    """Plant and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--count", type=int, help="only so many, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="for --count (0)")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    faults = chosen(arguments)
    verdicts: list[Verdict] = []
    stale: list[str] = []
    with tempfile.TemporaryDirectory(prefix="troth-mutation-") as directory:
        plantation = Plantation(Path(directory))
        for number, fault in enumerate(faults, 1):
            try:
                verdict = plantation.judge(fault)
            except StaleFaultError as error:
                stale.append(str(error))
                print(f"{number:3} STALE  {error}", flush=True)
                continue
            verdicts.append(verdict)
            word = "missed" if verdict.caught_by is None else "caught"
            print(
                f"{number:3} {word} {verdict.duration_s:5.1f} s  {fault.name}: {verdict.caught_by}",
                flush=True,
            )
    missed_count = sum(verdict.caught_by is None for verdict in verdicts)
    print(f"{len(verdicts) - missed_count} of {len(faults)} caught, {len(stale)} stale")
    if arguments.write:
        before, mark, _ = PAGE.read_text().partition(MARK)
        PAGE.write_text(before + mark + "\n" + table(verdicts))
    return 1 if missed_count or stale else 0


if __name__ == "__main__":
    sys.exit(main())
