"""What the servers that keep a log in JetStream say of themselves: versions, and syncing to disk.

JetStream acknowledges by default what no disk has: a power cut of all servers loses it. Only a
server with `sync_interval: always` does not. A client cannot ask for that where it sends messages,
but at each server's monitor (`/varz`), or of all together with a user of the system account.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import httpx

from .jetstream_connection import VERSION_LEAST, JetStreamConnection
from .jetstream_url import read_jetstream_url
from .stream import StreamUnreachable

MONITOR_LIMIT_S: Final = 2.0
_SYSTEM_WAIT_S: Final = 0.5
_ASK_ALL: Final = "$SYS.REQ.SERVER.PING.VARZ"


class FoundServers(NamedTuple):
    """What is known of servers, by name. `silent` are monitors that do not answer."""

    names: tuple[str, ...]
    too_old: tuple[str, ...]
    unsafe: tuple[str, ...]
    silent: tuple[str, ...]


def look_at_servers(monitor: str) -> FoundServers:
    """Ask servers at their monitors, or through a system account; wait a moment for each.

    `monitor` is a list of URLs with commas in between, or one that begins with nats:// or tls://.
    Raises StreamRefused if that cannot be read.
    """
    shown: list[Mapping[str, Any]] = []
    silent: list[str] = []
    for place, said in _answers(monitor):
        if said is None:
            silent.append(place)
        else:
            shown.append(said)
    names, too_old, unsafe = [], [], []
    for said in shown:
        name = str(said.get("server_name", "?"))
        names.append(name)
        if _version(str(said.get("version", ""))) < VERSION_LEAST:
            too_old.append(f"{name} ({said.get('version')})")
        config = (said.get("jetstream") or {}).get("config")
        if config is not None and config.get("sync_always") is not True:
            unsafe.append(name)
    return FoundServers(tuple(names), tuple(too_old), tuple(unsafe), tuple(silent))


def _answers(monitor: str) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Yield who was asked, and what the server says of itself; None if it does not answer."""
    if not monitor.startswith("http"):
        url = read_jetstream_url(monitor)
        connection = JetStreamConnection(url)
        try:
            for answer in connection.gather(_ASK_ALL, _SYSTEM_WAIT_S):
                said: dict[str, Any] = answer.get("data") or {}
                yield url.shown, said
        except StreamUnreachable:
            yield url.shown, None
        finally:
            connection.close()
        return
    for place in monitor.split(","):
        try:
            found = httpx.get(f"{place.rstrip('/')}/varz", timeout=MONITOR_LIMIT_S)
            found.raise_for_status()
            yield place, found.json()
        except (httpx.HTTPError, ValueError):
            yield place, None


def _version(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; zeros if it is none."""
    parts = text.split(".")[:2]
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)
