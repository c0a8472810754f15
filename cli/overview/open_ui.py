"""`troth ui` and `troth dev`: the web UI in a browser, signed in.

The browser is given an address with a one-time code behind `#`, the part that browsers send to no
server and that is in no log. The page signs in with it, as an administrator, within a minute.
"""

import os
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from troth.cli.operator_session import administrator_command
from troth.cli.options import ServerCommand, Session
from troth.cli.output import emit, note

_DISPLAYS: Final = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")

browser_option: Final = click.option(
    "--no-browser", is_flag=True, help="Print the address instead of opening it."
)


@click.command(cls=ServerCommand)
@browser_option
@administrator_command()
def ui(session: Session, no_browser: bool) -> None:
    """Open the web UI of a running server in a browser.

    You are signed in as an administrator. The operator's key is read from the data directory, or a
    token with the scope `admin` is used. The address works once, within a minute.

    \b
    Examples:
      troth ui
      troth ui --no-browser --data /var/lib/troth
      troth ui --server https://troth.example --token TOKEN
    """
    answer = session.client.ask("POST", "/admin/session-code")
    try:
        place = answer.content["url"] or f"{session.client.url}/"
        address = address_of(place, answer.content["code"])
    except (KeyError, TypeError) as error:
        raise session.client.not_the_api() from error
    if no_browser or session.as_json or not opened(address):
        session.show(answer, lambda: address)


def address_of(place: str, code: str) -> str:
    """Return the address of the UI of a server at a URL that ends with a slash."""
    return f"{place}ui/#code={code}"


def opened(address: str, environment: Mapping[str, str] | None = None) -> bool:
    """Open an address in a browser; return whether there is one that needs no terminal."""
    given = os.environ if environment is None else environment
    if sys.platform not in ("darwin", "win32") and not any(map(given.get, _DISPLAYS)):
        return False
    if not webbrowser.open(address):
        return False
    note("the web UI was opened in a browser")
    return True


@click.command("dev")
@browser_option
@click.option(
    "--listen",
    default="127.0.0.1:8001",
    show_default=True,
    metavar="HOST:PORT",
    help="Address of the API and the web UI.",
)
@click.option(
    "--poll-listen",
    default="127.0.0.1:8002",
    show_default=True,
    metavar="HOST:PORT",
    help="Address where workers of the REST API open message streams.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="Lowest level of events to log.",
)
@click.pass_context
def dev(
    context: click.Context, no_browser: bool, listen: str, poll_listen: str, log_level: str
) -> None:
    """Run a server for development, in memory, and open its web UI.

    Everything is lost when it stops (Ctrl-C). Settings of a file or the environment do not count.
    The operator's key that is printed is for commands that need one: --token KEY.

    \b
    Examples:
      troth dev
      troth dev --listen 127.0.0.1:9001 --poll-listen 127.0.0.1:9002
    """
    # Only here: no other command needs the server's libraries.
    from troth.http.serve import serve
    from troth.http.settings.sources import SettingsError, load

    flags = {"listen": listen, "poll_listen": poll_listen, "log_level": log_level}
    try:
        settings = load(Path(os.devnull), {}, {**flags, "in_memory": True})
    except SettingsError as error:
        raise click.UsageError(str(error)) from error

    def tell(url: str, operator_key: str, code: str) -> None:
        emit(f"API           {url}")
        emit(f"Web UI        {url}/ui/")
        emit(f"operator key  {operator_key}")
        address = address_of(f"{url}/", code)
        if no_browser or not opened(address):
            emit(f"sign in       {address}")
        emit("Everything is lost when this server stops (Ctrl-C).")

    context.exit(serve(settings, tell))
