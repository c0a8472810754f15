"""How the commands that work on files, without a server, say that something is wrong with them."""

import contextlib
from collections.abc import Iterator

import click

from troth.persistence.errors import PersistenceError


@contextlib.contextmanager
def errors_shown() -> Iterator[None]:
    """End the command with status 1 and the message of an error of a log, snapshot or disk."""
    try:
        yield
    except PersistenceError as error:
        raise click.ClickException(str(error)) from error
