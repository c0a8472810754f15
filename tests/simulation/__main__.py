"""`python -m tests.simulation --seed N --runs M`: simulate the server with M seeds from N on."""

import argparse
import logging
import sys
import time

import structlog

from .chances import parse_chances
from .simulation import Outcome, SimulationFailed, simulate


def main() -> int:
    """Run; 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--runs", type=int, default=10, help="how many seeds (10)")
    parser.add_argument("--minutes", type=int, default=1, help="of trouble in a run (1)")
    parser.add_argument(
        "--checkpoints",
        action="store_true",
        help="make checkpoints; every other run trims the log, and the others check all of it",
    )
    parser.add_argument(
        "--chance",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="how likely a fault is, such as kill=0 or answer_is_lost=0.3; see chances.py",
    )
    parser.add_argument(
        "--no-reboot",
        action="store_true",
        help="after a disk failure start again on the same machine, without losing its cache",
    )
    arguments = parser.parse_args()
    try:
        chances = parse_chances(arguments.chance)
    except ValueError as error:
        parser.error(str(error))
    # The server's warnings about the faults that are injected would hide the outcomes.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    failed: list[int] = []
    outcomes: list[Outcome] = []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        started = time.monotonic()
        try:
            outcome = simulate(
                seed,
                reboots_after_disk_failure=not arguments.no_reboot,
                makes_checkpoints=arguments.checkpoints,
                trims_log=seed % 2 == 0,
                minutes=arguments.minutes,
                chances=chances,
            )
            outcomes.append(outcome)
            print(f"{outcome} ({time.monotonic() - started:.1f} s)", flush=True)
        except SimulationFailed as failure:
            failed.append(seed)
            print(failure, flush=True)
    hours = sum(outcome.simulated_s for outcome in outcomes) / 3600
    lives_count = sum(outcome.lives_count for outcome in outcomes)
    answers_count = sum(outcome.answers_count for outcome in outcomes)
    print(
        f"{len(outcomes)} runs: {hours:.2f} h simulated, {lives_count} lives, "
        f"{answers_count} answers",
        flush=True,
    )
    if failed:
        print(f"failed seeds: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
