"""`python -m tests.fuzz --minutes N`: change what the corpus holds, and watch the parsers.

So many minutes for each parser. The status is 1 if a defect was found; the input that shows it, as
small as it goes, is put into the corpus, so that it is checked from then on.
"""

import argparse
import hashlib
import sys

from .running import CORPUS, DefectFound, fuzz
from .targets import TARGETS


def main() -> int:
    """Fuzz one parser after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for each parser (1)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other inputs (0)")
    parser.add_argument("--only", choices=sorted(TARGETS), action="append", help="these parsers")
    arguments = parser.parse_args()
    found_count = 0
    for name in arguments.only or TARGETS:
        try:
            report = fuzz(
                TARGETS[name], arguments.seed, seconds=arguments.minutes * 60, guided=True
            )
        except DefectFound as defect:
            found_count += 1
            kept = CORPUS / name / f"found-{hashlib.sha256(defect.content).hexdigest()[:12]}"
            kept.write_bytes(defect.content)
            print(f"{defect}\n  kept as {kept.relative_to(CORPUS.parent)}", flush=True)
            continue
        print(
            f"{name:9} {report.inputs_count:9,} inputs, {report.accepted_count:9,} accepted, "
            f"{report.lines_count:5,} pairs of lines, slowest {1000 * report.slowest_s:6.1f} ms",
            flush=True,
        )
    return 1 if found_count else 0


if __name__ == "__main__":
    sys.exit(main())
