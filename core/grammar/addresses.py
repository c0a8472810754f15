"""Where a message goes: from a promise's routing tag, and from a stored receiver, to an address.

Two steps, both pure functions that never raise, whatever a client has stored:

- `route` reads the value of a routing tag (`resonate:invoke`) when a promise is created and says
  which *receiver* its task gets. A receiver is a JSON value kept as it is: a string (a logical name
  or a URL) or an object `{"type": …, "data": …}`. Nothing is checked here, since the target may be
  configured later.
- `resolve` turns a receiver into an *address* when a message is sent: a `PollAddress` (one of the
  connections of a group) or a `PushAddress` (an HTTP POST), or says why it is `Undeliverable`.

What `resolve` returns is safe to hand to a sender: URLs are ASCII, absolute and bounded, have a
valid host and no fragment; header names and values cannot break out of their line; headers that
belong to the HTTP connection are left out, and so are those that clients may not set.

Strings are resolved in this order: a configured target of exactly that name; `default`, which is
the poll group `default`; a `poll://`, `http://` or `https://` URL; else undeliverable.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, unquote

import idna
import orjson

from troth.core.limits import RECEIVER_DEPTH_LIMIT_COUNT

Receiver: TypeAlias = str | dict[str, object]
Cast: TypeAlias = Literal["uni", "any"]

DEFAULT_TARGET: Final = "default"

URL_LENGTH_LIMIT: Final = 8_192
"""Characters of a receiver URL, before and after it is made ASCII."""
NAME_LENGTH_LIMIT: Final = 1_024
"""Characters of a poll group or of a connection id."""
HEADER_COUNT_LIMIT: Final = 64
HEADER_NAME_LENGTH_LIMIT: Final = 256
HEADER_VALUE_LENGTH_LIMIT: Final = 8_192
HEADERS_LENGTH_LIMIT: Final = 16_384
"""Characters of all header names and values of one receiver together."""

CONNECTION_HEADERS: Final = frozenset(
    {
        "connection",
        "content-length",
        "content-type",  # always application/json
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers the sender sets itself; a receiver's values for them are ignored."""
CLIENT_HEADERS_START: Final = "x-"
CLIENT_HEADERS: Final = frozenset({"traceparent", "tracestate"})
"""Headers that a client's receiver may set, in addition to those that begin with `x-`; others are
ignored.

The server sends them from where it is, so a client must not make it show credentials
(Authorization, Cookie) or open doors in its network (Metadata-Flavor). A configured target may.
"""


@dataclass(frozen=True, slots=True)
class PollAddress:
    """A connection of a poll group: exactly `id` (`uni`), or any, `id` preferred (`any`)."""

    group: str
    id: str | None
    cast: Cast

    @property
    def target(self) -> str:
        """The key of queues, back-off and statistics: one per group."""
        return f"poll://{self.group}"


@dataclass(frozen=True, slots=True)
class PushAddress:
    """An HTTP endpoint that messages are POSTed to, with these headers (sorted by name)."""

    url: str
    headers: tuple[tuple[str, str], ...]

    @property
    def target(self) -> str:
        """The key of queues, back-off and statistics: scheme://host:port."""
        scheme, _, rest = self.url.partition("://")
        authority = re.split("[/?]", rest, maxsplit=1)[0].rpartition("@")[2]
        if authority.endswith("]") or ":" not in authority:
            authority += ":443" if scheme == "https" else ":80"
        return f"{scheme}://{authority}"


Address: TypeAlias = PollAddress | PushAddress


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """A receiver that no message can be sent to, and why, as a sentence part for people."""

    reason: str


class _ReceiverRefused(Exception):
    """Inside this module: the receiver cannot be resolved; the argument is the reason."""


# --- routing tags ---------------------------------------------------------------------------------

_JSON_STARTS: Final = frozenset('{["-0123456789tfn \t\r\n')


def route(tag_value: str) -> Receiver | None:
    """Return the receiver that the value of a routing tag names, or None if it names none.

    Text that is not JSON is the receiver itself. A JSON object with a non-empty string `type`,
    perhaps `data` and nothing else is a receiver; data that is missing is null. Any other JSON
    (numbers, quoted strings, null, …) routes nowhere; so does one that is nested deeper than a
    receiver may be, since it could not be written to the log.
    """
    if tag_value[:1] not in _JSON_STARTS:
        return tag_value
    try:
        value = orjson.loads(tag_value)
    except orjson.JSONDecodeError:
        return tag_value
    if not isinstance(value, dict):
        return None
    fields = {key.lower(): field for key, field in value.items()}
    type_name = fields.pop("type", None)
    data = fields.pop("data", None)
    if fields or not isinstance(type_name, str) or not type_name:
        return None
    if not nests_within(data, RECEIVER_DEPTH_LIMIT_COUNT - 1):
        return None
    return {"type": type_name, "data": data}


def nests_within(value: object, depth_count: int) -> bool:
    """Return whether arrays and objects of a JSON value are nested at most this deep."""
    level = [value]
    while containers := [one for one in level if isinstance(one, dict | list)]:
        if depth_count == 0:
            return False
        depth_count -= 1
        level = []
        for one in containers:
            level.extend(one.values() if isinstance(one, dict) else one)
    return True


# --- receivers ------------------------------------------------------------------------------------


def resolve(
    recv: object, targets: Mapping[str, Address], *, is_configured: bool = False
) -> Address | Undeliverable:
    """Return the address that a stored receiver (any JSON value) stands for.

    `targets` are the configured logical names. A receiver that `is_configured` is the setting of
    one: it may have any headers. Never raises for anything JSON can express.
    """
    if isinstance(recv, str):
        named = targets.get(recv)
        if named is not None:
            return named
        if len(recv) > URL_LENGTH_LIMIT:
            return Undeliverable(f"the receiver is longer than {URL_LENGTH_LIMIT} characters")
        return _resolve_text(recv)
    try:
        return _resolve_object(recv, is_configured=is_configured)
    except _ReceiverRefused as refusal:
        return Undeliverable(str(refusal))


@lru_cache(maxsize=4_096)
def _resolve_text(text: str) -> Address | Undeliverable:
    if text == DEFAULT_TARGET:
        return PollAddress(DEFAULT_TARGET, None, "any")
    scheme, colon, _ = text.lower().partition(":")
    try:
        if scheme == "poll" and colon:
            return _poll_url(text)
        if scheme in ("http", "https") and colon:
            return PushAddress(_push_url(text), ())
    except _ReceiverRefused as refusal:
        return Undeliverable(str(refusal))
    return Undeliverable(
        f"unknown receiver {_shown(text)}: neither a configured target nor a poll, http or https "
        "URL"
    )


def _resolve_object(recv: object, *, is_configured: bool) -> Address:
    if not isinstance(recv, dict):
        raise _ReceiverRefused(f"a receiver is a string or an object, not {_kind(recv)}")
    type_name = recv.get("type")
    if type_name not in ("poll", "http"):
        raise _ReceiverRefused(
            f"unknown receiver type {_shown(type_name)}; the types are 'poll' and 'http'"
        )
    data = recv.get("data")
    if not isinstance(data, dict):
        raise _ReceiverRefused(
            f"data of a {type_name} receiver must be an object, not {_kind(data)}"
        )
    if type_name == "poll":
        return _poll_address(data.get("group"), data.get("id"), data.get("cast"))
    url = data.get("url")
    if not isinstance(url, str):
        raise _ReceiverRefused(f"data.url of an http receiver must be a string, not {_kind(url)}")
    headers = _headers(data.get("headers"))
    if not is_configured:
        headers = tuple(one for one in headers if _may_be_set(one[0].lower()))
    return PushAddress(_push_url(url), headers)


def _may_be_set(name: str) -> bool:
    return name.startswith(CLIENT_HEADERS_START) or name in CLIENT_HEADERS


# --- poll -----------------------------------------------------------------------------------------

# What may stand in the authority of a URL besides bytes beyond ASCII (RFC 3986), and an escaped
# slash: tokens for ids that begin with `team/` listen to groups that do.
_GROUP_CHARACTERS: Final = re.compile(r"[A-Za-z0-9\-_.~!$&'()*+,;=:/\[\]<>\"\x80-\U0010ffff]*\Z")
_GROUP_PORT: Final = re.compile(r":[0-9]*\Z")
_ESCAPES: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*\Z", re.DOTALL)


def _poll_url(text: str) -> PollAddress:
    """Read `poll://[uni@|any@]group[/id]`; query and fragment mean nothing."""
    _refuse_controls(text)
    rest = text.partition(":")[2]
    rest = rest.partition("#")[0].partition("?")[0]
    if not rest.startswith("//"):
        raise _ReceiverRefused(
            f"{_shown(text)} has no group; write poll://group or poll://group/id"
        )
    authority, _, path = rest[2:].partition("/")
    user, has_user, host = authority.rpartition("@")
    group = _decoded(host, text)
    if not _GROUP_CHARACTERS.match(group) or (
        ":" in group and not (_GROUP_PORT.search(group) or group.endswith("]"))
    ):
        raise _ReceiverRefused(f"{_shown(host)} cannot be the group in a poll URL")
    return _poll_address(group, _decoded(path, text) or None, user if has_user and user else None)


def _poll_address(group: object, connection_id: object, cast_name: object) -> PollAddress:
    if not isinstance(group, str) or not group:
        raise _ReceiverRefused(
            f"the group of a poll receiver must be a non-empty string, not {_shown(group)}"
        )
    if connection_id is not None and not isinstance(connection_id, str):
        raise _ReceiverRefused(
            f"the id of a poll receiver must be a string, not {_shown(connection_id)}"
        )
    if cast_name not in (None, "uni", "any"):
        raise _ReceiverRefused(f"unknown cast {_shown(cast_name)}; the casts are 'uni' and 'any'")
    if cast_name == "uni" and not connection_id:
        raise _ReceiverRefused("a poll receiver with cast 'uni' needs the id of a connection")
    for name, value in (("group", group), ("id", connection_id or "")):
        if len(value) > NAME_LENGTH_LIMIT:
            raise _ReceiverRefused(
                f"the {name} of a poll receiver is longer than {NAME_LENGTH_LIMIT} characters"
            )
        _refuse_surrogates(value)
    return PollAddress(group, connection_id or None, "uni" if cast_name == "uni" else "any")


# --- push -----------------------------------------------------------------------------------------

_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_LOOKS_LIKE_IPV4: Final = re.compile(r"[0-9.]+\Z")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*\Z")
_URL_SAFE: Final = "!$&'()*+,;=:@/?%~[]"


def _push_url(text: str) -> str:
    """Return the http or https URL in a form any HTTP client takes, or refuse it."""
    if len(text) > URL_LENGTH_LIMIT:
        raise _ReceiverRefused(f"the URL is longer than {URL_LENGTH_LIMIT} characters")
    _refuse_controls(text)
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme not in ("http", "https") or not rest.startswith("//"):
        raise _ReceiverRefused(f"{_shown(text)} is not an absolute http or https URL")
    rest = rest[2:].partition("#")[0]
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, tail = rest[:end], rest[end:]
    path, has_query, query = tail.partition("?")
    user, has_user, host_and_port = authority.rpartition("@")
    for part in (user, path):
        _decoded(part, text)
    # A percent sign in a query need not begin an escape; the client would refuse or rewrite it.
    query = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", query)
    url = (
        f"{scheme}://"
        + (quote(user, safe="!$&'()*+,;=:%~") + "@" if has_user and user else "")
        + _push_host(host_and_port, text)
        + quote(_without_dot_segments(path) or "/", safe=_URL_SAFE)
        + ("?" + quote(query, safe=_URL_SAFE) if has_query else "")
    )
    if len(url) > URL_LENGTH_LIMIT:
        raise _ReceiverRefused(f"the URL is longer than {URL_LENGTH_LIMIT} characters when escaped")
    return url


def _without_dot_segments(path: str) -> str:
    """Remove the segments `.` and `..` of a path as the HTTP client does before it sends."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if kept and kept != [""]:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)


def _push_host(host_and_port: str, text: str) -> str:
    if host_and_port.startswith("["):
        host, bracket, port = host_and_port[1:].partition("]")
        try:
            host = f"[{ipaddress.IPv6Address(host).compressed}]"
        except ValueError:
            raise _ReceiverRefused(
                f"{_shown(text)} has no valid IPv6 address as its host"
            ) from None
        if "%" in host or not bracket or (port and not port.startswith(":")):
            raise _ReceiverRefused(f"{_shown(text)} has no valid host")
        port = port[1:]
    else:
        host, _, port = host_and_port.partition(":")
        host = _host_name(host, text)
    if not port:
        return host
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
        raise _ReceiverRefused(f"{_shown(text)} has no valid port (1 to 65535)")
    return f"{host}:{int(port)}"


def _host_name(host: str, text: str) -> str:
    """Return a host name in lower-case ASCII, or an IPv4 address."""
    try:
        # The library and rules (IDNA 2008) of the sender: what httpx refuses is refused here.
        name = host.lower() if host.isascii() else idna.encode(host.lower()).decode("ascii")
        if name.startswith("xn--"):
            idna.decode(name)  # what cannot be shown cannot be checked by people
        if _LOOKS_LIKE_IPV4.match(name):
            name = ipaddress.IPv4Address(name).compressed
    except ValueError:  # UnicodeError is one
        raise _ReceiverRefused(f"{_shown(text)} has no valid host") from None
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise _ReceiverRefused(f"{_shown(text)} has no valid host")
    return name


def _headers(headers: object) -> tuple[tuple[str, str], ...]:
    if headers is None:
        return ()
    if not isinstance(headers, dict):
        raise _ReceiverRefused(f"data.headers must be an object, not {_kind(headers)}")
    if len(headers) > HEADER_COUNT_LIMIT:
        raise _ReceiverRefused(f"data.headers has more than {HEADER_COUNT_LIMIT} headers")
    kept: dict[str, tuple[str, str]] = {}
    length = 0
    for name, value in headers.items():
        if not _HEADER_NAME.match(name) or len(name) > HEADER_NAME_LENGTH_LIMIT:
            raise _ReceiverRefused(f"{_shown(name)} is not a valid header name")
        if not isinstance(value, str) or not _HEADER_VALUE.match(value):
            raise _ReceiverRefused(f"the header {_shown(name)} must have printable ASCII text")
        if len(value) > HEADER_VALUE_LENGTH_LIMIT:
            raise _ReceiverRefused(
                f"the header {_shown(name)} is longer than {HEADER_VALUE_LENGTH_LIMIT} characters"
            )
        length += len(name) + len(value)
        if name.lower() not in CONNECTION_HEADERS:
            kept[name.lower()] = (name, value.strip())
    if length > HEADERS_LENGTH_LIMIT:
        raise _ReceiverRefused(f"data.headers is longer than {HEADERS_LENGTH_LIMIT} characters")
    return tuple(kept[name] for name in sorted(kept))


# --- helpers --------------------------------------------------------------------------------------


def _refuse_controls(text: str) -> None:
    if any(character < " " or character == "\x7f" for character in text):
        raise _ReceiverRefused(f"{_shown(text)} has a control character in it")
    _refuse_surrogates(text)


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _ReceiverRefused(f"{_shown(text)} is not valid Unicode") from None


def _decoded(part: str, text: str) -> str:
    """Undo percent-encoding; refuse what is not an escape or not UTF-8."""
    if "%" not in part:
        return part
    if not _ESCAPES.match(part):
        raise _ReceiverRefused(f"{_shown(text)} has a percent sign that begins no escape like %20")
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise _ReceiverRefused(f"{_shown(text)} has escapes that are not UTF-8") from None


def _shown(value: object) -> str:
    """Return the value as it may stand in a message: quoted, ASCII, at most about 80 characters."""
    if isinstance(value, dict | list):
        return _kind(value)
    shown = ascii(value if not isinstance(value, str) else value[:80])
    return shown if len(shown) <= 100 else shown[:100] + "…"


_KINDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")
