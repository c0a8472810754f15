"""The twin of the process that writes checkpoints: what it does, in this process.

All that the two say to each other is encoded and decoded, and the filter of ids is shared memory.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import final

from troth.core.state.captures import Capture
from troth.persistence.apart.arriving import Arriving
from troth.persistence.apart.messages import (
    RELEASE,
    Begin,
    End,
    Order,
    encode,
    order_decoder,
    orders,
)
from troth.persistence.checkpoints.id_filter import IdFilter, Room
from troth.persistence.checkpoints.port import ApartStatistics, Store

_LENGTH_BYTES = 4


@final
class HandedOver:
    """Writes every checkpoint to a store by what is said of it."""

    process_id: int | None = 1

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(
        self,
        captures: Sequence[Capture],
        meta: list[tuple[bytes, bytes]],
        stored: dict[int, int],
        rooms: Sequence[Room],
        pause: Callable[[], None],
    ) -> list[int]:
        """See CheckpointWriter."""
        sizes = [(room.size_bytes, room.free_count) for room in rooms]
        begin = passed(Begin(RELEASE, "", None, meta, stored, sizes))
        assert isinstance(begin, Begin)
        filters = [IdFilter.within(room) for room in rooms]

        def add_ids(heads: Sequence[bytes]) -> None:
            for one in filters:
                one.add(heads)

        def arriving() -> Iterator[Order]:
            yield from map(passed, orders(captures, pause))
            yield passed(End())

        self._store.commit(Arriving(begin, self._store.view, add_ids).writes(arriving()))
        return [one.ids_count for one in filters]

    def statistics(self) -> ApartStatistics:
        """See CheckpointWriter."""
        return ApartStatistics()

    def end(self) -> None:
        """See CheckpointWriter."""

    def close(self) -> None:
        """See CheckpointWriter."""


def handing_over(store: Store) -> HandedOver | None:
    """Return what writes the checkpoints of this life of a store; None: they are written in place.

    So lives of both kinds follow one another.
    """
    return HandedOver(store) if store.size_bytes() % 2 == 0 else None


def passed(order: Order) -> Order:
    """Return a message as the other side has it."""
    return order_decoder.decode(encode(order)[_LENGTH_BYTES:])
