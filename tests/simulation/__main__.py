"""`python -m tests.simulation --seed N --runs M --steps K`: simulate the server with M seeds.

    make simulate SEED=7 STEPS=2000

prints a line for each seed and, in the end, what they amount to. For a run that fails it prints the
smallest one that fails in the same way, and how to run that again.
"""

import argparse
import logging
import sys
import time

import structlog

from .faults import parse_chances
from .plan import STEPS_COUNT, plan_of
from .shrinking import shrink
from .simulation import SimulationFailed, simulate
from .totals import Totals


def main() -> int:
    """Run; 1 if a seed failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds (1)")
    parser.add_argument(
        "--steps", type=int, default=STEPS_COUNT, help=f"requests of each run ({STEPS_COUNT})"
    )
    parser.add_argument(
        "--groups",
        type=int,
        default=1,
        help="how many groups of shards, each in a process of its own; 0: 2 to 4, by seed (1)",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=0,
        help="how many nodes, which have one log in a stream; with --groups they share those (0)",
    )
    parser.add_argument(
        "--without",
        default="",
        help="faults, occurrences of faults and kinds of clients to leave out, with commas between",
    )
    parser.add_argument(
        "--chance",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="how likely a fault is, such as kill=0 or answer_lost=0.3; see faults.py",
    )
    parser.add_argument("--quiet", action="store_true", help="no line for a run that is right")
    parser.add_argument("--no-shrinking", action="store_true", help="show a failure as it is")
    arguments = parser.parse_args()
    try:
        chances = parse_chances(arguments.chance)
    except ValueError as error:
        parser.error(str(error))
    # The server's warnings about the faults that are injected would hide the outcomes.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    without = frozenset(filter(None, arguments.without.split(",")))
    totals = Totals()
    failed: list[int] = []
    started_s = time.monotonic()
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        plan = plan_of(seed, arguments.steps, without, chances, arguments.groups, arguments.nodes)
        try:
            outcome = simulate(plan)
        except SimulationFailed as failure:
            failed.append(seed)
            print(failure if arguments.no_shrinking else shrink(failure), flush=True)
            continue
        totals.add(outcome)
        if not arguments.quiet:
            print(outcome, flush=True)
    print(totals.report(time.monotonic() - started_s))
    if failed:
        print(f"failed seeds: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
