"""What starts and watches this process: systemd, or anything that speaks its protocol.

It says in the environment where it listens (`NOTIFY_SOCKET`), how often it wants to hear that the
process lives (`WATCHDOG_USEC`), and which sockets it has opened already (`LISTEN_FDS`). This module
promises:

- `taken` removes all of it from the environment, so that no child process speaks in our name or
  takes the descriptors for its own.
- What is meant for another process (`LISTEN_PID`, `WATCHDOG_PID`) is not used.
- Sending never blocks. READY and STOPPING are sent again until the manager takes them; a sign of
  life that it does not take is dropped, since the next one follows.
- While the process starts or stops, the manager is asked for more time as long as the loop runs: a
  long log is read back, and a last checkpoint written, however long that takes.
- Without a manager nothing is sent, and no task runs.

The protocol is described in sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

FIRST_DESCRIPTOR: Final = 3
"""Where the descriptors that are handed over begin."""

VARIABLES: Final = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
)

SIGNS_IN_A_TIMEOUT_COUNT: Final = 3
"""How many signs of life there are in the time after which the manager acts: one may be late."""

EXTENSION_S: Final = 30.0
"""How much more time is asked for while the process starts or stops; three times in that time."""

_RETRY_S: Final = 1.0
_ROLES: Final = ("api", "poll")
_log = structlog.get_logger("troth.supervision")


class HandedOverRefused(Exception):
    """The sockets that were handed over cannot be used. `str()` is one line for an operator."""


@dataclass(frozen=True, slots=True)
class GivenSockets:
    """Listening sockets of each role; what has none is opened by the server."""

    api: tuple[socket.socket, ...] = ()
    poll: tuple[socket.socket, ...] = ()


NO_SOCKETS: Final = GivenSockets()


@dataclass(slots=True)
class ServiceManager:
    """The manager of this process, if there is one: hears that it is ready, stops, lives."""

    address: str | None = None
    """Of its datagram socket; None: there is nothing to be told. `@` begins an abstract name."""

    watchdog_s: float | None = None
    """After which time without a sign of life it acts; None: it does not watch."""

    handed_over: GivenSockets = NO_SOCKETS
    _is_changing: bool = True
    _is_warned: bool = False
    _unsent: list[bytes] = field(default_factory=list)
    _stirred: trio.Event = field(default_factory=trio.Event)

    def ready(self, status: str) -> None:
        """Say that the start has ended. `status` is one line that `systemctl status` shows."""
        self._is_changing = False
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Say that the stop has begun."""
        self._is_changing = True
        self._tell("STOPPING=1\nSTATUS=finishing what is in flight")

    def status(self, text: str) -> None:
        """Say in one line what the process does, if the manager takes it now."""
        if self.address is not None:
            self._send(f"STATUS={text}".encode())

    async def run(self) -> None:
        """Give signs of life, and repeat what was not taken; returns only if there is no manager.

        It runs on the loop that serves: a loop that hangs gives none.
        """
        if self.address is None:
            return
        try:
            while True:
                self._send_unsent()
                if self._is_changing:
                    self._send(b"EXTEND_TIMEOUT_USEC=%d" % (EXTENSION_S * 1e6))
                if self.watchdog_s is not None:
                    self._send(b"WATCHDOG=1")
                self._stirred = trio.Event()
                with trio.move_on_after(self._pause_s()):
                    await self._stirred.wait()
        finally:
            self._send_unsent()

    def _pause_s(self) -> float:
        watchdog_s = float("inf") if self.watchdog_s is None else self.watchdog_s
        timeout_s = min(watchdog_s, EXTENSION_S) if self._is_changing else watchdog_s
        pause_s = timeout_s / SIGNS_IN_A_TIMEOUT_COUNT
        return min(pause_s, _RETRY_S) if self._unsent else pause_s

    def _tell(self, text: str) -> None:
        if self.address is not None:
            self._unsent.append(text.encode())
            self._send_unsent()
            self._stirred.set()

    def _send_unsent(self) -> None:
        while self._unsent and self._send(self._unsent[0]):
            del self._unsent[0]

    def _send(self, message: bytes) -> bool:
        """Send a datagram; return whether it was taken."""
        assert self.address is not None
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
                ours.setblocking(False)
                ours.sendto(message, _unix_address(self.address))
        except BlockingIOError:
            return False
        except OSError as error:
            # The server is none the worse for it, and the manager may come back.
            if not self._is_warned:
                _log.warning("the service manager cannot be told", reason=str(error))
            self._is_warned = True
            return False
        return True


def taken(environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
    """Read who manages this process, and remove it from the environment.

    Raises HandedOverRefused if it handed over sockets that this server cannot listen on.
    """
    given = {name: environment.pop(name) for name in VARIABLES if name in environment}
    address = given.get("NOTIFY_SOCKET") or None
    if address is not None and address[0] not in "/@":
        _log.warning("the service manager cannot be told", reason=f"NOTIFY_SOCKET is {address}")
        address = None
    return ServiceManager(address, _watchdog_s(given), _handed_over(given))


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
