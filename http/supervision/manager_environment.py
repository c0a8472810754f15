"""What a service manager says to the process that it starts: in the environment.

Where it listens (`NOTIFY_SOCKET`), how often it wants to hear that the process lives
(`WATCHDOG_USEC`), and which sockets it has opened already (`LISTEN_FDS`). This module promises:

- `take_environment` removes all of it from the environment, so that no child process speaks in our
  name or takes the descriptors for its own.
- What is meant for another process (`LISTEN_PID`, `WATCHDOG_PID`) is not used.

The protocol is described in sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

import structlog

FIRST_DESCRIPTOR: Final = 3
"""Where the descriptors that are handed over begin."""

VARIABLES: Final = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
)

_ROLES: Final = ("api", "poll")
_log = structlog.get_logger("troth.supervision")


class HandedOverRefused(Exception):
    """The sockets that were handed over cannot be used. `str()` is one line for an operator."""


@dataclass(frozen=True, slots=True)
class GivenSockets:
    """Listening sockets of each role; what has none is opened by the server, unless they are all.

    `api_address` and `poll_address` are host and port that stand for them, where that is known.
    """

    api: tuple[socket.socket, ...] = ()
    poll: tuple[socket.socket, ...] = ()
    are_all: bool = False
    api_address: tuple[str, int] | None = None
    poll_address: tuple[str, int] | None = None


NO_SOCKETS: Final = GivenSockets()


@dataclass(frozen=True, slots=True)
class ManagerEnvironment:
    """What was said: where the manager listens, after which silence it acts, and its sockets."""

    address: str | None
    watchdog_s: float | None
    handed_over: GivenSockets


def take_environment(environment: MutableMapping[str, str] = os.environ) -> ManagerEnvironment:
    """Read what the manager says, and remove it from the environment.

    Raises HandedOverRefused if it handed over sockets that this server cannot listen on.
    """
    given = {name: environment.pop(name) for name in VARIABLES if name in environment}
    address = given.get("NOTIFY_SOCKET") or None
    if address is not None and address[0] not in "/@":
        _log.warning("the service manager cannot be told", reason=f"NOTIFY_SOCKET is {address}")
        address = None
    return ManagerEnvironment(address, _watchdog_s(given), _handed_over(given))


def send_notice(address: str, message: bytes) -> None:
    """Send the manager a datagram. Never blocks. Raises BlockingIOError or another OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.setblocking(False)
        ours.sendto(message, _unix_address(address))


def _watchdog_s(given: Mapping[str, str]) -> float | None:
    period_us = given.get("WATCHDOG_USEC", "")
    if not period_us.isdecimal() or int(period_us) == 0:
        return None
    return int(period_us) / 1e6 if _is_for_us(given.get("WATCHDOG_PID")) else None


def _is_for_us(process_id: str | None) -> bool:
    return process_id is None or process_id == str(os.getpid())


def _handed_over(given: Mapping[str, str]) -> GivenSockets:
    count = given.get("LISTEN_FDS", "")
    if not count.isdecimal() or "LISTEN_PID" not in given or not _is_for_us(given["LISTEN_PID"]):
        return NO_SOCKETS
    numbers = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    for number in numbers:
        try:
            os.set_inheritable(number, False)
        except OSError as error:
            raise HandedOverRefused(
                f"Cannot serve: the service manager says that descriptor {number} is a socket to "
                f"listen on, but it is not open ({error.strerror or error})."
            ) from error
    return _by_role([*numbers], given.get("LISTEN_FDNAMES", "").split(":"))


def _by_role(numbers: list[int], names: list[str]) -> GivenSockets:
    """Return the sockets by role: by their names if these are ours, else in their order."""
    roles = names if len(names) == len(numbers) and set(names) <= {*_ROLES} else [*_ROLES]
    if len(numbers) > len(roles):
        raise HandedOverRefused(
            f"Cannot serve: {len(numbers)} sockets were handed over. Name those of the API "
            "FileDescriptorName=api and those of the poll streams FileDescriptorName=poll, or hand "
            "over one of each, the API's first."
        )
    found: dict[str, list[socket.socket]] = {role: [] for role in _ROLES}
    for number, role in zip(numbers, roles, strict=False):
        found[role].append(_listening(number))
    return GivenSockets(tuple(found["api"]), tuple(found["poll"]))


def _listening(number: int) -> socket.socket:
    """Return the TCP socket that a descriptor is. Raises HandedOverRefused."""
    try:
        handed = socket.socket(fileno=number)
        accepts = handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise HandedOverRefused(
            f"Cannot serve: descriptor {number}, which was handed over, is not a socket."
        ) from error
    if handed.family not in {socket.AF_INET, socket.AF_INET6} or not accepts:
        handed.detach()
        raise HandedOverRefused(
            f"Cannot serve: descriptor {number}, which was handed over, is not a listening TCP "
            "socket. Give the socket unit ListenStream=HOST:PORT and Accept=no."
        )
    return handed


def _unix_address(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address
