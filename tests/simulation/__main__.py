"""`python -m tests.simulation --seed N --runs M`: simulate the server with M seeds from N on."""

import argparse
import logging
import sys
import time

import structlog

from .simulation import SimulationFailed, simulate


def main() -> int:
    """Run; 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--runs", type=int, default=10, help="how many seeds (10)")
    parser.add_argument(
        "--no-reboot",
        action="store_true",
        help="after a disk failure start again on the same machine, without losing its cache",
    )
    arguments = parser.parse_args()
    # The server's warnings about the faults that are injected would hide the outcomes.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    failed: list[int] = []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        started = time.monotonic()
        try:
            outcome = simulate(seed, reboots_after_disk_failure=not arguments.no_reboot)
            print(f"{outcome} ({time.monotonic() - started:.1f} s)", flush=True)
        except SimulationFailed as failure:
            failed.append(seed)
            print(failure, flush=True)
    if failed:
        print(f"failed seeds: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
