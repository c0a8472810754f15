"""What the client commands have in common: kinds of arguments, options, and the open connection.

A command decorated with `server_command` is called with a `Session` first: the connection to the
server and how answers are wanted. The commands themselves only name a request and how its answer
is shown.
"""

import base64
import functools
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from troth.core.grammar import durations
from troth.core.limits import INTEGER_MAX, saturating_add

from .connection.addresses import DEFAULT_SERVER
from .connection.answers import ApiAnswer, RequestRefused
from .output import emit, note, now_ms, one_line

if TYPE_CHECKING:
    from .connection.client import ApiClient

_DIGITS_LIMIT_COUNT: Final = 19
"""A number of milliseconds with more digits is a mistake."""

Pairs = tuple[tuple[str, str], ...]
"""What options with NAME=TEXT were given, in their order."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True)
class Session:
    """The connection of one command, and whether it shows answers as JSON or for people."""

    client: "ApiClient"
    as_json: bool

    def show(self, answer: ApiAnswer, shown: Callable[[], str]) -> None:
        """Print an answer: its raw JSON on one line, or the text that `shown` makes of it."""
        if self.as_json:
            if answer.text:
                emit(one_line(answer.text))
            return
        try:
            text = shown()
        except (KeyError, TypeError) as error:
            # A key that every answer of the API has is not there.
            raise self.client.not_the_api() from error
        emit(text)


def connect(
    server: str,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    ca_file: Path | None = None,
) -> "ApiClient":
    """Return a connection to a server. Raises as `ApiClient` does."""
    # Only here: its HTTP library takes longer to load than help takes to be shown.
    from .connection.client import ApiClient

    return ApiClient(server, user, password, token, ca_file)


# `ParamType` takes type arguments only in the newest versions of click; older ones work too.
class TextOption(click.ParamType):  # type: ignore[type-arg]
    """A text that can be sent: valid UTF-8, and not empty unless `may_be_empty`."""

    name = "text"

    def __init__(self, *, may_be_empty: bool = False) -> None:
        self.may_be_empty = may_be_empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check a value. Raises click.BadParameter."""
        text = str(value)
        if not text and not self.may_be_empty:
            self.fail("it must not be empty.", param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("it must be valid UTF-8.", param, ctx)
        return text


class HeaderText(TextOption):
    """A text that can be the content of an HTTP header: one line."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check a value. Raises click.BadParameter."""
        text = super().convert(value, param, ctx)
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
            self.fail("it must not contain control characters.", param, ctx)
        if text != text.strip(" "):
            # HTTP drops them on the way: the key would silently be another.
            self.fail("it must not begin or end with a space.", param, ctx)
        return text


class Pair(click.ParamType):  # type: ignore[type-arg]
    """`NAME=CONTENT`, as a tuple. The content may be empty and may contain `=`."""

    name = "pair"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split a value. Raises click.BadParameter."""
        name, separator, content = TEXT.convert(value, param, ctx).partition("=")
        if not separator or not name:
            self.fail(f"{value!r} is not NAME=CONTENT, for example team=billing.", param, ctx)
        return name, content


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A length of time, in milliseconds: `250ms`, `10s`, `1.5h`, `1d`, `1h30m`, or `1500`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a value; at most 64 bits. Raises click.BadParameter."""
        text = str(value)
        is_number = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_LIMIT_COUNT
        duration_ms = int(text) if is_number else durations.read_ms(text)
        if duration_ms is None:
            self.fail(
                f"{text!r} is not a duration, for example 250ms, 10s, 5m, 2h, 1d or 1h30m "
                "(a number alone is milliseconds).",
                param,
                ctx,
            )
        return min(duration_ms, INTEGER_MAX)


TEXT: Final = TextOption()
HEADER_TEXT: Final = HeaderText(may_be_empty=True)
PAIR: Final = Pair()
DURATION: Final = Duration()


CONNECTION_SECTION: Final = "Connection and output"
_CONNECTION_OPTIONS: Final = frozenset(
    {"server", "user", "password", "token", "ca_file", "as_json"}
)


class ServerCommand(click.Command):
    """A command whose help keeps what all commands share apart from what is its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then those of the connection."""
        rows: dict[str, list[tuple[str, str]]] = {"Options": [], CONNECTION_SECTION: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Arguments are in the first line of the help and in its text.
            if record is not None and isinstance(parameter, click.Option):
                shared = parameter.name in _CONNECTION_OPTIONS
                rows[CONNECTION_SECTION if shared else "Options"].append(record)
        for title, entries in rows.items():
            with formatter.section(title):
                formatter.write_dl(entries, col_max=24)


class OrderedGroup(click.Group):
    """A group of commands to a server; its help lists them as they were written down."""

    command_class = ServerCommand

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names, in order."""
        return [*self.commands]


def together(*decorators: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    """Join options into one decorator; the help text lists them in this order."""

    def decorate(command: Decorated) -> Decorated:
        decorated: Any = command
        for decorator in reversed(decorators):
            decorated = decorator(decorated)
        result: Decorated = decorated
        return result

    return decorate


ca_file_option: Final = click.option(
    "--ca-file",
    envvar="TROTH_CA_FILE",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificates (PEM) to trust for https:// [TROTH_CA_FILE; default: SSL_CERT_FILE, or "
    "the system's].",
)
"""How to trust a server whose certificate was signed by a private authority."""


def connection_options_of(default_server: str | None) -> Callable[[Decorated], Decorated]:
    """Return the connection's options; without a default, `server` is None unless given."""
    return together(
        click.option(
            "--server",
            envvar="TROTH_SERVER",
            default=default_server,
            show_default=default_server is not None,
            metavar="URL",
            help="The server's API address [environment: TROTH_SERVER].",
        ),
        click.option(
            "--token",
            envvar="TROTH_TOKEN",
            metavar="TEXT",
            help="Token. Others can read command lines, so prefer the environment [TROTH_TOKEN].",
        ),
        click.option(
            "--user",
            envvar="TROTH_USER",
            metavar="NAME",
            help="User name, for servers with users [environment: TROTH_USER].",
        ),
        click.option(
            "--password",
            envvar="TROTH_PASSWORD",
            metavar="TEXT",
            help="Password of that user; prefer the environment [TROTH_PASSWORD].",
        ),
        ca_file_option,
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print the server's JSON answer on one line, for scripts; nothing if it is empty.",
        ),
    )


def server_command(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the connection and call it with an open `Session`."""

    @functools.wraps(command)
    def with_session(
        server: str,
        user: str | None,
        password: str | None,
        token: str | None,
        ca_file: Path | None,
        as_json: bool,
        **arguments: Any,
    ) -> None:
        session = Session(connect(server, user, password, token, ca_file), as_json)
        run_session(session, command, arguments)

    return connection_options_of(DEFAULT_SERVER)(with_session)


def run_session(
    session: Session, command: Callable[..., None], arguments: Mapping[str, Any]
) -> None:
    """Call a command with its session, and close the connection."""
    with session.client:
        try:
            command(session, **arguments)
        except RequestRefused as refusal:
            if session.as_json and refusal.answer.text:
                # A script finds the answer where it looks for answers, also for a refusal.
                emit(one_line(refusal.answer.text))
            raise


def pairs_option(name: str, help_text: str) -> Callable[[Decorated], Decorated]:
    """Return an option that may be given several times, each time with a NAME=TEXT."""
    return click.option(
        f"--{name}",
        f"{name.replace('-', '_')}s",
        type=PAIR,
        multiple=True,
        metavar="NAME=TEXT",
        help=help_text,
    )


value_options: Final = together(
    click.option("--data", metavar="TEXT", help="The data, as text."),
    click.option(
        "--data-file",
        type=click.File("rb"),
        metavar="FILE",
        help="File with the data, in any format (-: standard input).",
    ),
    pairs_option("header", "A header that describes the data; repeatable."),
)
"""Options for a promise's value; `value_body` makes JSON of what they give."""

key_option: Final = click.option(
    "--idempotency-key",
    type=HEADER_TEXT,
    metavar="TEXT",
    help="Make the command safe to repeat: with the same key, it succeeds again.",
)
strict_option: Final = click.option(
    "--strict", is_flag=True, help="Refuse a repetition unless the state is the requested one."
)


def limit_option(help_text: str, most_count: int = 1_000) -> Callable[[Decorated], Decorated]:
    """Return the option of how many rows a list has, as `limit_count`: 1 to `most_count`."""
    return click.option(
        "--limit",
        "limit_count",
        type=click.IntRange(1, most_count),
        default=100,
        show_default=True,
        metavar="NUMBER",
        help=help_text,
    )


def page_options(most_count: int = 1_000) -> Callable[[Decorated], Decorated]:
    """Return the options of a list with pages, each of at most so many rows."""
    return together(
        limit_option("Size of a page.", most_count),
        click.option("--cursor", metavar="TEXT", help="Continue after the page that printed this."),
        click.option("--all", "all_pages", is_flag=True, help="Read all pages, not only one."),
    )


tag_filter_option: Final = pairs_option("tag", "Only those with this tag; repeatable.")


def page_query(
    limit_count: int, cursor: str | None, *more: tuple[str, str | None]
) -> list[tuple[str, str]]:
    """Return the query of a page, without what is None. A cursor says all of it again, so it goes
    alone."""
    if cursor:
        return [("cursor", cursor)]
    given = [(name, text) for name, text in more if text is not None]
    return [*given, ("limit", str(limit_count))]


search_options: Final = together(
    tag_filter_option,
    page_options(100),
)
"""Options of a search, all but its pattern."""


def search_query(
    pattern: str,
    tags: Pairs,
    limit_count: int,
    cursor: str | None,
    *more: tuple[str, str | None],
) -> list[tuple[str, str]]:
    """Return the query of a search. A cursor says all of it again, so it goes alone."""
    about_tags = [(f"tags[{name}]", content) for name, content in tags]
    return page_query(limit_count, cursor, ("id", pattern), *more, *about_tags)


def show_search(
    session: Session,
    path: str,
    query: list[tuple[str, str]],
    all_pages: bool,
    shown: Callable[[list[Any]], str],
) -> None:
    """Ask for one page or all, and print what was found; `path` names the key of the rows too."""
    key = path.strip("/")
    if all_pages:
        rows = [row for page in session.client.pages(path, query, key) for row in page]
        text = json.dumps({"cursor": None, key: rows}, ensure_ascii=False, separators=(",", ":"))
        answer = ApiAnswer(200, text, {"cursor": None, key: rows})
    else:
        answer = session.client.ask("GET", path, query=query)
    session.show(answer, lambda: shown(answer.content[key]))
    if session.as_json:
        return
    found_count = len(answer.content[key])
    if answer.content.get("cursor"):
        note(
            f"{found_count} found, there may be more: --all, or --cursor {answer.content['cursor']}"
        )
    else:
        note(f"{found_count} found")


def value_body(data: str | None, data_file: BinaryIO | None, headers: Pairs) -> dict[str, Any]:
    """Return the JSON of a promise's param or value.

    Raises click.UsageError for two sources of data.
    """
    if data is not None and data_file is not None:
        raise click.UsageError("--data and --data-file exclude each other.")
    # What the shell gave, byte for byte, whatever it is.
    content = os.fsencode(data) if data is not None else data_file.read() if data_file else b""
    body: dict[str, Any] = {}
    if headers:
        body["headers"] = dict(headers)
    if content:
        body["data"] = base64.b64encode(content).decode()
    return body


def request_headers(idempotency_key: str | None, strict: bool = False) -> Mapping[str, str]:
    """Return the HTTP headers that say how a repetition is treated."""
    headers = {}
    if idempotency_key is not None:
        headers["idempotency-key"] = idempotency_key
    if strict:
        headers["strict"] = "true"
    return headers


def deadline_ms(timeout_ms: int, timeout_at_ms: int | None) -> int:
    """Return when a promise times out, in ms since 1970: from now, unless a time is given."""
    return saturating_add(now_ms(), timeout_ms) if timeout_at_ms is None else timeout_at_ms


def process_option(help_text: str) -> Callable[[Decorated], Decorated]:
    """Return the option of the process that holds something, which has a default."""
    return click.option(
        "--process-id",
        type=TEXT,
        default=default_process_id,
        show_default="troth-cli@ and this machine's name",
        metavar="TEXT",
        help=help_text,
    )


def default_process_id() -> str:
    """Return a process id for this machine's command line, the same for every call."""
    return f"troth-cli@{socket.gethostname()}"
