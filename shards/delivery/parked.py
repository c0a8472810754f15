"""The messages that delivery has, by what they are about; most that wait for a worker as no object.

There may be a million tasks whose workers are away. All that is to be known of such a message is
what it is about, that is its key, and a few things that most messages for the same receiver have in
common: these are one `Parked` for all of them. A `Shipment` is made again when something happens to
the message.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, final

from msgspec import Struct

from troth.core.grammar.addresses import PollAddress, PushAddress

from .shipments import STALLED, ReceiverKey, Shipment

_KINDS_COUNT: Final = 4_096
"""So many different things that messages have in common are each one object."""


class Parked(Struct, frozen=True, gc=False):
    """What is known of a message that waits for its receiver, apart from its key.

    `address` is None for a receiver that cannot be resolved.
    """

    address: PollAddress | None
    receiver: ReceiverKey
    exact: bool
    counter: int
    attempt_count: int


@lru_cache(maxsize=_KINDS_COUNT)
def _parked(
    address: PollAddress | None,
    receiver: ReceiverKey,
    exact: bool,
    counter: int,
    attempt_count: int,
) -> Parked:
    return Parked(address, receiver, exact, counter, attempt_count)


@final
class Shipments:
    """One server's messages by their keys (`key_of`)."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        """Start empty."""
        self._by_key: dict[str, Shipment | Parked] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def add(self, shipment: Shipment) -> None:
        """Take up a message about something that has none."""
        self._by_key[shipment.id] = shipment

    def find(self, key: str) -> Shipment | None:
        """Return the message, which something is about to happen to, or None if there is none."""
        found = self._by_key.get(key)
        if isinstance(found, Parked):
            found = self._by_key[key] = _revived(key, found)
        return found

    def look(self, key: str) -> Shipment | None:
        """Return the message to be looked at only."""
        found = self._by_key.get(key)
        return _revived(key, found) if isinstance(found, Parked) else found

    def remove(self, shipment: Shipment) -> None:
        """Forget a message."""
        assert self._by_key[shipment.id] is shipment, "it is here once"
        del self._by_key[shipment.id]

    def park(self, shipment: Shipment) -> None:
        """Keep a message that waits, as no object if nothing of it would be lost.

        The caller does nothing more with it: what happens next happens to what `find` returns.
        """
        assert shipment.state is STALLED, "it waits"
        address = shipment.address
        if isinstance(address, PushAddress) or shipment.error is not None:
            return
        self._by_key[shipment.id] = _parked(
            address, shipment.receiver, shipment.exact, shipment.counter, shipment.attempt_count
        )


def _revived(key: str, parked: Parked) -> Shipment:
    return Shipment.revived(
        key, parked.address, parked.receiver, parked.counter, parked.attempt_count, parked.exact
    )
