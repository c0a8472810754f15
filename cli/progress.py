"""A line on standard error that shows how far a long command is.

At a terminal it is a bar that moves; elsewhere, in a log say, a plain line every few seconds.
"""

import sys
import time
from types import TracebackType
from typing import Final, Self

import click
import rich.progress
from rich.console import Console

LINE_EVERY_S: Final = 5.0
"""How often a line is written without a terminal."""


class Progress:
    """Shows a label, a count of `unit`, and a bar if `total` is known. Used in a `with` block."""

    def __init__(
        self, label: str, unit: str, *, total: int | None = None, shown: bool = True
    ) -> None:
        is_terminal = sys.stderr.isatty()
        self._writes_lines = shown and not is_terminal
        self._label, self._unit, self._total = label, unit, total
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.completed:.0f} " + unit),
            rich.progress.TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not (shown and is_terminal),
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
        self._label = text
        self._progress.update(self._task, description=text)

    def advance(self, completed: int) -> None:
        """Say how much is done in all."""
        self._progress.update(self._task, completed=completed)
        now_s = time.monotonic()
        if self._writes_lines and now_s >= self._next_line_s:
            self._next_line_s = now_s + LINE_EVERY_S
            of_all = f" of {self._total}" if self._total else ""
            share = f" ({completed / self._total:.0%})" if self._total else ""
            line = f"{self._label}: {completed}{of_all} {self._unit}".rstrip()
            click.echo(f"{line}{share}", err=True)
