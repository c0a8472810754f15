"""Conversions of a large directory between numbers of groups, killed at random moments.

    python -m tests.proofs.conversion --promises 1000000 --kills 20 --seed 1

A directory of one group is filled. `troth data convert` makes three groups of it, two of these,
three again and so on. Each is killed with SIGKILL after a random part of the time that one takes,
until it is quicker or has had half of all kills. After the last kill it is left to end.
All rows must then be those of a conversion that was not killed, by the digests of all tables. What
a conversion costs is said in processor seconds of its process.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.helpers.repository import ROOT
from tests.persistence.groups import digests_of
from troth.persistence.conversion.convert import MARK

_LOOK_S = 0.02

LIMIT_S = 60.0
"""What one conversion may cost, in processor seconds."""


class Ended(NamedTuple):
    """How a process ended: its status as `waitpid` says it, and what it has cost."""

    status: int
    processor_s: float
    wall_s: float


def convert(data: Path, groups_count: int, kill_after_s: float | None = None) -> Ended:
    """Convert a directory; kill the process after a while if it has not ended."""
    command = (sys.executable, "-m", "troth", "data", "convert", str(data), "--remove-old")
    began_s = time.monotonic()
    process = subprocess.Popen(
        (*command, "--groups", str(groups_count)), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    while True:
        ended_id, status, usage = os.wait4(process.pid, 0 if kill_after_s is None else os.WNOHANG)
        if ended_id:
            break
        if kill_after_s is not None and time.monotonic() - began_s >= kill_after_s:
            os.kill(process.pid, signal.SIGKILL)  # Popen would take its status
            kill_after_s = None
        else:
            time.sleep(_LOOK_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(status, usage.ru_utime + usage.ru_stime, time.monotonic() - began_s)


def converted(data: Path, groups_count: int) -> Ended:
    """Convert a directory, which must succeed within its limit."""
    ended = convert(data, groups_count)
    assert ended.status == 0, f"status {ended.status}"
    assert not (data / MARK.name).exists()
    print(f"{groups_count} groups: {ended.processor_s:.1f} processor seconds", flush=True)
    assert ended.processor_s <= LIMIT_S
    return ended


def fill(data: Path, promises_count: int) -> None:
    """Fill a directory of one group: mostly completed promises, and something of all else."""
    part_count = promises_count // 50
    counts = {
        "completed": promises_count - 3 * part_count,
        "pending": part_count,
        "tasks": part_count,
        "workflows": part_count,
        "locks": part_count // 2,
        "tree": 500,
    }
    arguments = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
    command = (sys.executable, "-m", "tests.helpers.fill_store", str(data), *arguments)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def prove(base: Path, filled: Path, kills_count: int, luck: random.Random) -> None:
    """Convert, with and without kills."""
    data, calm = base / "data", base / "calm"
    shutil.copytree(filled, data)
    shutil.copytree(filled, calm)
    whole = converted(calm, 3)
    wanted = digests_of(calm)
    shutil.rmtree(calm)
    left_count = kills_count
    for groups_count in itertools.cycle((3, 2)):
        killed_count = 0
        while left_count and killed_count < (kills_count + 1) // 2:
            ended = convert(data, groups_count, luck.uniform(0, whole.wall_s))
            if not os.WIFSIGNALED(ended.status):
                break
            left_count -= 1
            killed_count += 1
        converted(data, groups_count)
        assert digests_of(data) == wanted, f"the rows of {groups_count} groups differ"
        print(f"{groups_count} groups after {killed_count} kills", flush=True)
        if not left_count and groups_count == 2:
            return


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--promises", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--filled", type=Path, help="a directory of one group that is there")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        filled: Path = options.filled or base / "filled"
        if options.filled is None:
            fill(filled, options.promises)
        prove(base, filled, options.kills, random.Random(options.seed))
    print(f"{options.kills} killed before the end; all digests are equal")


if __name__ == "__main__":
    main()
