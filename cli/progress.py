"""A line on standard error that shows how far a long command is; nothing unless at a terminal."""

import sys
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console


class Progress:
    """Shows a label, a count of `unit`, and a bar if `total` is known. Used in a `with` block."""

    def __init__(
        self, label: str, unit: str, *, total: int | None = None, shown: bool = True
    ) -> None:
        is_shown = shown and sys.stderr.isatty()
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.completed:.0f} " + unit),
            rich.progress.TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not is_shown,
        )
        self._task = self._progress.add_task(label, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def label(self, text: str) -> None:
        """Say what is being done now."""
        self._progress.update(self._task, description=text)

    def advance(self, completed: int) -> None:
        """So much is done in all."""
        self._progress.update(self._task, completed=completed)
