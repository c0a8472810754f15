"""Conversions that are killed, and what the next one makes of them.

    python -m tests.persistence.conversion_kills DIRECTORY --rounds 20 --seed 1

Each round copies a directory, begins to convert it in a process, and kills that with SIGKILL: in
one half of the rounds at a chosen call of the file system, in the other after a chosen time, which
may be within a commit of the store; before that, once at each of the last calls. The old directory
must be there, byte for byte, under one of its two names; the next conversion must end, and its rows
be those of one that nobody killed.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.persistence.groups import digests_of
from tests.shards.stage import EPOCH_MS
from troth.persistence.conversion.convert import BEFORE_SUFFIX, MARK, NewPlacement, convert
from troth.persistence.placement import PlacementRule

WANTED: Final = NewPlacement(PlacementRule.ORIGIN, shard_count=6, groups_count=2)
LAST_CALLS_COUNT: Final = 6
_COUNTED: Final = frozenset(
    {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir"}
)


class Calls:
    """Counts a process's calls of the file system, and calls `act` at one of them."""

    def __init__(self, place: int, act: Callable[[], None]) -> None:
        self.count = 0
        self._place = place
        self._act = act
        sys.addaudithook(self._note)

    def _note(self, event: str, _: object) -> None:
        if event in _COUNTED:
            self.count += 1
            if self.count == self._place:
                self._act()


def content(directory: Path) -> dict[str, bytes]:
    """All files of a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _forked(action: Callable[[], int]) -> int:
    """Begin `action` in a process whose exit status is what it returns; return its id."""
    child = os.fork()
    if child:
        return child
    status = 255
    try:
        status = action()
    finally:
        os._exit(status)


def _convert(data: Path) -> None:
    convert(data, WANTED, now_ms=EPOCH_MS)


def _begin(data: Path, place: int) -> int:
    """Begin to convert in a process that kills itself at a call (0: never); return its id."""

    def act() -> int:
        if place:
            Calls(place, _die)
        _convert(data)
        return 0

    return _forked(act)


def _calls_of(data: Path, directory: Path) -> int:
    """How many calls a conversion makes, by one in a process of its own."""
    shutil.copytree(data, directory / "data")
    read, write = os.pipe()

    def count() -> int:
        calls = Calls(0, _die)
        _convert(directory / "data")
        os.write(write, str(calls.count).encode())
        return 0

    _, status = os.waitpid(_forked(count), 0)
    assert status == 0, status
    number = int(os.read(read, 100))
    os.close(read)
    os.close(write)
    return number


def kill_rounds(source: Path, rounds_count: int, seed: int) -> int:
    """Kill conversions of a directory; how many of the rounds were before they had ended."""
    chance = random.Random(seed)
    killed_count = 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        before = content(source)
        shutil.copytree(source, base / "whole")
        _convert(base / "whole")  # here: what it loads has been loaded in all others
        wanted = digests_of(base / "whole")
        began_s = time.monotonic()
        calls_count = _calls_of(source, base / "counted")
        duration_s = time.monotonic() - began_s
        # The last calls give the directories their names: each of them is a moment of its own.
        places = [calls_count - number for number in range(LAST_CALLS_COUNT)]
        places += [chance.randint(1, calls_count) for _ in range(0, rounds_count, 2)]
        moments = [*places, *[0] * (rounds_count // 2)]
        for number, place in enumerate(moments):
            directory = base / str(number)
            data = directory / "data"
            shutil.copytree(source, data)
            child = _begin(data, place)
            what = f"at call {place} of {calls_count}"
            if not place:
                time.sleep(chance.uniform(0, duration_s))
                os.kill(child, signal.SIGKILL)
                what = "after a time"
            _, status = os.waitpid(child, 0)
            if number < LAST_CALLS_COUNT:
                assert os.WIFSIGNALED(status), (place, status)
            else:
                killed_count += os.WIFSIGNALED(status)
            about = f"seed {seed}, round {number}: killed {what}, status {status}"
            old = data.with_name(data.name + BEFORE_SUFFIX)
            there = [content(path) for path in (data, old) if path.exists()]
            assert before in there, f"{about}: the old directory has changed or is gone"
            _convert(data)
            assert not (data / MARK.name).exists(), about
            assert content(old) == before, about
            assert sorted(path.name for path in directory.iterdir()) == ["data", old.name], about
            assert digests_of(data) == wanted, f"{about}: the rows differ"
            shutil.rmtree(directory)
    return killed_count


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    killed_count = kill_rounds(options.directory, options.rounds, options.seed)
    print(f"{killed_count} of {options.rounds} killed before the end, {LAST_CALLS_COUNT} at it")


if __name__ == "__main__":
    main()
