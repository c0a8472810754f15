"""The common part of commands for the server's operator: they send the operator's key.

Such a command reads the key in the data directory (`operator_key.py`), which goes to servers on
this machine only. With `--token` or `--user` on the command line it does as all other commands do.

- `operator_command`, for `troth account` and `troth token`: if no server runs on the directory, the
  command starts one of its own for the one call, so that accounts can be made before the server is
  ever reachable.
- `administrator_command`, for what only a running server can do: it shows the key if `--data` is
  named or no other credentials are given, not even in the environment.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from troth.http.identity.operator_key import FILE_NAME, read
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.settings.sources import SettingsError, load
from troth.persistence.errors import DataDirectoryError, PersistenceError
from troth.persistence.files import RealFiles

from .connection.addresses import DEFAULT_SERVER, is_loopback
from .connection.answers import RequestRefused, ServerUnreachable
from .options import Session, connect, connection_options_of, run_session
from .output import note
from .serve import CLIENT_VARIABLES

if TYPE_CHECKING:
    from .connection.client import ApiClient

_ANY_ADDRESS: Final[Mapping[str, str]] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

data_option: Final = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The server's data directory [default: as for `troth serve`].",
)


def operator_command(
    *, may_make: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of the connection and --data; call it with an open `Session`.

    With `may_make` it makes a data directory that was named and does not exist.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_session(
            data: Path | None,
            server: str | None,
            user: str | None,
            password: str | None,
            token: str | None,
            ca_file: Path | None,
            as_json: bool,
            **arguments: Any,
        ) -> None:
            def act(client: "ApiClient") -> None:
                run_session(Session(client, as_json), command, arguments)

            def as_all_others(address: str) -> None:
                act(connect(address, user, password, token, ca_file))

            # What is in the environment is meant for the commands that act for an account.
            if _is_given("token") or _is_given("user"):
                as_all_others(server or DEFAULT_SERVER)
                return
            settings = _settings(data)
            if server is None or not _is_given("server"):
                _at(settings, server, act, as_all_others, may_make=may_make)
                return
            key = _key_for(server, settings.data)
            if key is None:
                as_all_others(server)
            else:
                act(connect(server, token=key, ca_file=ca_file))

        return data_option(connection_options_of(None)(with_session))

    return decorate


def administrator_command(
    *, pass_data: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of the connection and --data; call it with an open `Session`.

    With `pass_data` it is given `data` too.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_session(
            data: Path | None,
            server: str,
            user: str | None,
            password: str | None,
            token: str | None,
            ca_file: Path | None,
            as_json: bool,
            **arguments: Any,
        ) -> None:
            has_others = token is not None or user is not None
            is_named = data is not None and not (_is_given("token") or _is_given("user"))
            if is_loopback(server) and (is_named or not has_others):
                key = _key_at_hand(data)
                if key is not None:
                    user, password, token = None, None, key
            if pass_data:
                arguments["data"] = data
            session = Session(connect(server, user, password, token, ca_file), as_json)
            run_session(session, command, arguments)

        return data_option(connection_options_of(DEFAULT_SERVER)(with_session))

    return decorate


def _key_at_hand(data: Path | None) -> str | None:
    """Return the operator's key, if the data directory is here and there is one in it."""
    directory = _settings(data).data
    try:
        is_there = (directory / FILE_NAME).exists()
    except PermissionError:
        is_there = True  # `_key` says what to do
    return _key(directory) if is_there else None


def _settings(data: Path | None) -> Settings:
    """Return the settings as the server has them. Raises click.UsageError."""
    environment = {name: text for name, text in os.environ.items() if name not in CLIENT_VARIABLES}
    # The first account may be what it takes for other machines to be let in.
    flags = {"data": None if data is None else str(data), "allow_anonymous": True}
    try:
        return load(None, environment, flags)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error


def _key_for(server: str, directory: Path) -> str | None:
    """Return the operator's key, if there is one here and the server is on this machine."""
    if not is_loopback(server) or not (directory / FILE_NAME).exists():
        return None
    return _key(directory)


def _key(directory: Path) -> str:
    try:
        return read(directory)
    except OSError as error:
        raise click.ClickException(
            f"{directory / FILE_NAME}: cannot be read ({error.strerror}). Run this command as "
            "the server's user, or give --token with a token of the scope admin."
        ) from error
    except DataDirectoryError as error:
        raise click.ClickException(str(error)) from error


def _at(
    settings: Settings,
    server: str | None,
    act: Callable[["ApiClient"], None],
    as_all_others: Callable[[str], None],
    *,
    may_make: bool,
) -> None:
    """Do it on the server of a data directory, or with one of our own."""
    directory = settings.data
    is_there = directory.exists()
    if settings.in_memory or (not is_there and "data" not in settings.sources):
        as_all_others(server or DEFAULT_SERVER)
    elif is_there and is_served(directory):
        address = server if server and is_loopback(server) else _address(settings)
        try:
            act(connect(address, token=_key(directory)))
        except ServerUnreachable as error:
            raise ServerUnreachable(
                f"a server has {directory} open, but none answers at {address}. Name its address "
                "with --server."
            ) from error
    elif settings.cluster is not None:
        raise click.ClickException(
            f"no server has {directory} open, and what is kept of a cluster is changed by its "
            f"servers. Start one here (troth serve --data {directory} with its other settings; "
            "--listen with an address of this machine only, if there are no accounts yet), and run "
            "this again."
        )
    elif is_there or may_make:
        running = server_at(server or _address(settings))
        if not is_there:
            if running is not None:
                raise click.ClickException(
                    f"{directory} does not exist, and a server runs at {running} on another "
                    "directory. Give the directory of that server as --data (its log names it), "
                    "or --server with the address that the server of this one will have."
                )
            note(f"creating the data directory {directory}")
        elif running is not None:
            note(f"in {directory}, which no server has open; the one at {running} has another")
        _alone(settings, act)
    else:
        raise click.ClickException(f"{directory} does not exist. Name the server's --data.")


def server_at(address: str) -> str | None:
    """Return the address if a Troth server of this machine answers there, else None."""
    if not is_loopback(address):
        return None
    try:
        with connect(address) as client:
            client.ask("GET", "/ping")
            return client.shown_url
    except RequestRefused:
        return address
    except ServerUnreachable:
        return None


def _is_given(name: str) -> bool:
    """Return whether an option is on the command line, and not only in the environment."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def is_served(directory: Path) -> bool:
    """Return whether another process has the directory open."""
    try:
        RealFiles().lock(str(directory)).close()
    except BlockingIOError:
        return True
    except OSError as error:
        raise click.ClickException(f"{directory}: {error.strerror}.") from error
    return False


def _address(settings: Settings) -> str:
    host = _ANY_ADDRESS.get(settings.listen.host, settings.listen.host)
    return f"http://{ListenAddress(host, settings.listen.port)}"


def _alone(settings: Settings, act: Callable[["ApiClient"], None]) -> None:
    """Run a server of our own for a block, reachable only from here, with only what it needs.

    Raises what `act` raises, or click.ClickException.
    """
    # Only here: the commands that talk to a running server need none of its libraries.
    from troth.http.serve import run_meanwhile
    from troth.http.sockets.ports import ListenError

    quiet = dataclasses.replace(
        settings,
        listen=ListenAddress("127.0.0.1", 0),
        poll_listen=None,
        url=None,
        hot_lane=False,
        retain=(),
        snapshot_schedule=None,
        log_level="error",
    )

    def act_at(url: str, key: str) -> None:
        act(connect(url, token=key))

    problem = ""
    try:
        run_meanwhile(quiet, act_at)
    except* (PersistenceError, ListenError) as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        problem = str(first)
    if problem:
        raise click.ClickException(problem)
