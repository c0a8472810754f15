"""`troth restart`: replaces the processes of a running server one after the other."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from troth.cli.log import data_option
from troth.cli.output import emit
from troth.http.supervision.seat import Lines, encode
from troth.persistence.data_directory import RUN_NAME

from .requests import SOCKET_NAME, SOCKET_PATH_LIMIT_BYTES

_RECEIVED_BYTES: Final = 65536


class NoServer(click.ClickException):
    """There is no server of several processes to be asked. Ends the command with status 3."""

    exit_code = 3


def asked(data: Path, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Ask the supervisor of the server on a data directory; yield what it answers, as it comes.

    Raises NoServer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            _connect(connection, data / RUN_NAME)
        except OSError as error:
            raise NoServer(
                f"No server of several processes runs on {data}, or this user may not ask it "
                f"({error.strerror})."
            ) from error
        connection.sendall(encode(question))
        lines = Lines()
        while received := connection.recv(_RECEIVED_BYTES):
            yield from map(dict, lines.feed(received))


def _connect(connection: socket.socket, directory: Path) -> None:
    """Connect to the control socket in a directory, however long its path. Raises OSError."""
    path = str(directory / SOCKET_NAME)
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT_BYTES:
        connection.connect(path)
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{descriptor}/{SOCKET_NAME}")
    finally:
        os.close(descriptor)


@click.command("restart")
@data_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for scripts.")
def restart_command(path: Path, as_json: bool) -> None:
    """Restart the processes of a server one after the other.

    It is for servers of several processes (`troth serve --processes` or `--cluster`). The others
    serve in the meantime, and connections wait, so clients notice nothing but a short delay. Each
    new process reads the settings again, and the certificates of links to other servers, but for
    addresses, the data directory and the number of processes: these need a new server. Run it on
    the server's machine, as its user.

    \b
    Example:
      troth restart --data /var/lib/troth
    """
    last: dict[str, Any] = {}
    for last in asked(path, {"ask": "restart"}):
        if as_json:
            emit(json.dumps(last))
        elif "restarted" in last:
            emit(f"process {last['restarted']}: restarted")
    if "done" not in last:
        reason = last.get("refused") or last.get("failed") or "the server has gone"
        raise click.ClickException(f"Not all processes were restarted: {reason}.")
