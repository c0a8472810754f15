"""Machines in network namespaces, and cuts between them that nobody is told of.

Each machine has a namespace with one address, all on a bridge. A cut from one machine to another
gives the first a wrong address of the other's card: what it sends arrives nowhere, and nothing says
so. It has one direction; both are cut by two. Needs root, and `ip` with namespaces.
"""

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

NETWORK: Final = "10.231.77"
_NOWHERE: Final = "02:de:ad:00:00:01"
_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET

Result = TypeVar("Result")


class NotPossible(Exception):
    """No namespaces can be made here; the text says why."""


class Machines:
    """A network of machines, by name."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._prefix = f"troth-{os.getpid()}"
        self._hub = f"{self._prefix}-hub"
        self._addresses = {name: f"{NETWORK}.{place + 1}" for place, name in enumerate(names)}

    def address(self, name: str) -> str:
        """The address of a machine."""
        return self._addresses[name]

    def namespace(self, name: str) -> str:
        """The namespace of a machine."""
        return f"{self._prefix}-{name}"

    def make(self) -> None:
        """Make all of them. Raises NotPossible."""
        if os.geteuid() != 0:
            raise NotPossible("only root may make network namespaces")
        try:
            _ip("netns", "add", self._hub)
            _ip("-n", self._hub, "link", "add", "hub", "type", "bridge")
            _ip("-n", self._hub, "link", "set", "hub", "up")
            for name in self.names:
                self._add(name)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotPossible(f"network namespaces cannot be made here: {error}") from error

    def _add(self, name: str) -> None:
        namespace, port = self.namespace(name), f"to-{name}"[:15]
        _ip("netns", "add", namespace)
        peer = ("peer", "name", "net", "netns", namespace)
        _ip("-n", self._hub, "link", "add", port, "type", "veth", *peer)
        _ip("-n", self._hub, "link", "set", port, "master", "hub", "up")
        _ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "net")
        for device in ("lo", "net"):
            _ip("-n", namespace, "link", "set", device, "up")

    def remove(self) -> None:
        """Remove all of them that are there."""
        for name in (*(self.namespace(name) for name in self.names), self._hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def cut(self, source: str, target: str) -> None:
        """Lose from now on all that one machine sends to another."""
        change = ("lladdr", _NOWHERE, "nud", "permanent", "dev", "net")
        _ip("-n", self.namespace(source), "neigh", "replace", self.address(target), *change)

    def heal(self, source: str, target: str) -> None:
        """End such a cut, if there is one."""
        command = ["ip", "-n", self.namespace(source), "neigh", "del", self.address(target)]
        subprocess.run([*command, "dev", "net"], capture_output=True, check=False)

    def within(self, name: str, action: Callable[[], Result]) -> Result:
        """Return what `action` returns, done on a machine: what it opens and starts is there."""
        found: list[Result] = []
        errors: list[BaseException] = []

        def act() -> None:
            try:
                self.enter(name)
                found.append(action())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return found[0]

    def enter(self, name: str) -> None:
        """Make the calling thread, which ends there, one of a machine's."""
        library = ctypes.CDLL(None, use_errno=True)
        handle = os.open(f"/run/netns/{self.namespace(name)}", os.O_RDONLY)
        try:
            if library.setns(handle, _NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(handle)


@contextmanager
def machines(*names: str) -> Iterator[Machines]:
    """Make machines, and remove them. Raises NotPossible."""
    made = Machines(names)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
