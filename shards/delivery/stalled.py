"""Tasks whose receiver is away: kept until it is back, then released as fast as it can take them.

`wake(key)` says that a receiver may have room. The releaser then releases its stalled shipments,
oldest first, in batches with checkpoints between, never more than there is room for. A released
shipment holds a *reservation* until its message arrives again, so that the same room is not given
away twice; the reservation ends automatically after a moment, since the task may have no message
any more.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final, final

import trio

from .shipments import ReceiverKey, Shipment, poll_targets

_BATCH_COUNT: Final = 100  # releases before other trio tasks get their turn


@final
class StalledShipments:
    """Stalled shipments by receiver, each receiver's oldest first."""

    def __init__(
        self,
        room_count: Callable[[ReceiverKey, int], int],
        release: Callable[[str], None],
    ) -> None:
        """Remember whom to ask.

        `room_count(key, reserved_count)` says how many messages a receiver can take now, besides
        those that are expected already; `release` takes a shipment, by its key, out of here and
        reports it.
        """
        self._room_count = room_count
        self._release = release
        self._by_receiver: dict[ReceiverKey, dict[str, None]] = {}
        self._by_target: dict[str, dict[ReceiverKey, None]] = {}
        self._reserved: Counter[ReceiverKey] = Counter()
        self._woken: dict[ReceiverKey, None] = {}
        self._wake = trio.Event()
        self.count = 0

    def add(self, shipment: Shipment) -> None:
        """Keep a shipment until its receiver is back."""
        key = shipment.receiver
        shipments = self._by_receiver.get(key)
        if shipments is None:
            shipments = self._by_receiver[key] = {}
            self._by_target.setdefault(key[0], {})[key] = None
        shipments[shipment.id] = None
        self.count += 1

    def remove(self, shipment: Shipment) -> None:
        """Take a shipment out, if it is here."""
        shipments = self._by_receiver.get(shipment.receiver)
        if shipments is None or shipment.id not in shipments:
            return
        del shipments[shipment.id]
        self.count -= 1
        if not shipments:
            self._forget_receiver(shipment.receiver)

    def _forget_receiver(self, key: ReceiverKey) -> None:
        del self._by_receiver[key]
        receivers = self._by_target[key[0]]
        del receivers[key]
        if not receivers:
            del self._by_target[key[0]]

    @property
    def by_receiver(self) -> Mapping[ReceiverKey, Mapping[str, None]]:
        """The keys of what waits for each receiver, oldest first; not to be changed."""
        return self._by_receiver

    def is_waiting_for(self, group: str) -> bool:
        """Return whether a shipment waits for any connection of a poll group."""
        return any(target in self._by_target for target in poll_targets(group))

    def keys_of(self, targets: Iterable[str]) -> list[ReceiverKey]:
        """Return the receivers with these targets that something waits for."""
        return [key for target in targets for key in self._by_target.get(target, ())]

    def reserve(self, shipment: Shipment) -> None:
        """Count this released shipment against its receiver's room."""
        assert not shipment.reserved
        shipment.reserved = True
        self._reserved[shipment.receiver] += 1

    def unreserve(self, shipment: Shipment) -> None:
        """End the reservation."""
        assert shipment.reserved
        shipment.reserved = False
        key = shipment.receiver
        self._reserved[key] -= 1
        if not self._reserved[key]:
            del self._reserved[key]

    def wake(self, key: ReceiverKey) -> None:
        """Say that this receiver may have room now."""
        if key in self._by_receiver:
            self._woken[key] = None
            self._wake.set()

    async def run(self) -> None:
        """Release shipments as their receivers have room, until canceled."""
        while True:
            if not self._woken:
                self._wake = trio.Event()
                await self._wake.wait()
            # One batch for each receiver in turn, so that a long queue delays no other receiver.
            key = next(iter(self._woken))
            del self._woken[key]
            self._release_batch(key)
            await trio.lowlevel.checkpoint()

    def _release_batch(self, key: ReceiverKey) -> None:
        shipments = self._by_receiver.get(key, {})
        for shipment_id in list(islice(shipments, _BATCH_COUNT)):
            if shipment_id not in shipments:
                continue
            if self._room_count(key, self._reserved[key]) <= 0:
                if not self._reserved[key]:
                    del self._reserved[key]
                return
            self._release(shipment_id)
        self.wake(key)
