"""`python -m tests.model --seed N --runs M --steps K`: hold the server against the reference."""

import argparse
import sys

import trio
import trio.testing

from .operator_histories import OperatorHistory
from .pair import DifferenceError, difference, shrunk
from .wire import running


async def _run(seed: int, step_count: int) -> None:
    shard_count = (1, 4)[seed % 2]
    async with running(shard_count) as wire:
        history = OperatorHistory(seed, wire)
        try:
            await history.run(step_count)
        except DifferenceError as error:
            print(f"seed {seed}: {error}\nThe shortest history that ends in a difference:")
            short = await shrunk(history.actions, shard_count)
            for action in short:
                print(f"  {action}")
            print(await difference(short, shard_count))
            raise
    print(f"seed {seed}: {history.seen.total()} answers, {history.events.total()} events")


def main() -> int:
    """Run; a difference is raised with its seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--runs", type=int, default=10, help="how many seeds (10)")
    parser.add_argument("--steps", type=int, default=300, help="how many steps a run has (300)")
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        try:
            trio.run(_run, seed, arguments.steps, clock=trio.testing.MockClock())
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
