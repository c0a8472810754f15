"""Options of schedules that are made, and of those that are changed."""

from collections.abc import Callable
from typing import Final

import click

from troth.cli.options import DURATION, TEXT, Decorated

description_option: Final = click.option(
    "--description", type=TEXT, metavar="TEXT", help="What the schedule is for."
)


def promise_timeout_option(default: str | None = None) -> Callable[[Decorated], Decorated]:
    """Return the option of when each promise times out."""
    return click.option(
        "--promise-timeout",
        "promise_timeout_ms",
        type=DURATION,
        default=default,
        show_default=default is not None,
        metavar="DURATION",
        help="When each promise times out, from its creation: 10s, 5m, 2h, 1d, or milliseconds.",
    )
