"""A directory that is built next to the place that it takes when it is whole.

A mark in it says so. What an interruption leaves is recognized by the mark, which is the first that
comes and the last that goes, and the next attempt starts again.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final

from .files import DIRECTORY_MODE, RealFiles, lock_left


@final
class BuildingInTheWay(Exception):
    """Nothing can be built there, and nothing was changed; the text says why."""


class Mark(NamedTuple):
    """The file that says what is going on: its name and, in words, what that is."""

    name: str
    act: str

    @property
    def text(self) -> str:
        """Its content."""
        return f"{self.act[0].upper()}{self.act[1:]} was interrupted, or is going on, here.\n"


@contextlib.contextmanager
def marked(building: Path, mark: Mark) -> Iterator[None]:
    """Create a directory to build in, locked, replacing a leftover one; remove it on failure.

    Raises BuildingInTheWay, and OSError.
    """
    if not building.is_dir():
        building.mkdir(DIRECTORY_MODE)
    files = RealFiles()
    try:
        lock = lock_left(files, str(building))
    except BlockingIOError as error:
        raise BuildingInTheWay(
            f"Another process is working in {building}. Nothing was changed."
        ) from error
    with contextlib.closing(lock):
        if any(building.iterdir()) and not (building / mark.name).exists():
            raise BuildingInTheWay(
                f"{building} is in the way, and it was not left by {mark.act} that was "
                "interrupted. Nothing was changed. Move it, or choose another directory."
            )
        try:
            _empty(building, mark)
            (building / mark.name).write_text(mark.text)
            files.sync_directory(str(building))
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # what has failed says more
                _empty(building, mark)
                shutil.rmtree(building)
            raise


def _empty(building: Path, mark: Mark) -> None:
    """Remove what is in a directory, but for the mark."""
    for path in sorted(building.iterdir()):
        if path.name == mark.name:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
