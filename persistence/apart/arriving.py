"""The rows of a checkpoint that arrives as messages: what the process that writes it makes."""

from collections.abc import Callable, Iterable, Iterator
from typing import final

from troth.core.model import Promise
from troth.core.state.captures import Capture
from troth.persistence.checkpoints import rows, writing
from troth.persistence.checkpoints.port import View, Write

from .messages import PART_KINDS, Begin, Completed, End, Opening, Order, Part, Pending


@final
class Arriving:
    """A checkpoint whose rows arrive.

    Completed promises become rows as they come, and only their ids are kept until all are there:
    so this takes little memory, and most is done when the server has said its last word.
    """

    def __init__(
        self, begin: Begin, open_view: Callable[[], View], add_ids: writing.AddIds
    ) -> None:
        self._begin = begin
        self._open_view = open_view
        self._add_ids = add_ids
        self._captures: dict[int, Capture] = {}
        self._completed: list[tuple[int, list[Promise]]] = []
        self._packed: list[bytes] = []
        self._ids: list[bytes] = []
        self._decoder = rows.RowDecoder()

    def writes(self, orders: Iterable[Order]) -> Iterator[Write]:
        """Yield the rows of what the server says, up to its last word."""
        for key, value in self._begin.meta:
            yield rows.META, key, value
        for order in orders:
            if isinstance(order, Completed):
                yield from self._take_completed(order)
            elif isinstance(order, Pending):
                names = self._captures[order.shard].packed_names
                yield from writing.pending_writes(order.shard, order.promises, names)
            elif isinstance(order, Opening):
                yield from self._open_shard(order)
            elif isinstance(order, Part):
                capture = self._captures[order.shard]
                for kind in PART_KINDS:
                    getattr(capture, kind).update(getattr(order, kind))
            else:
                assert isinstance(order, End), "a checkpoint begins once"
                break
        yield from self._completed_writes()
        ids, self._ids = self._ids, []
        yield from writing.id_writes(ids, self._add_ids)
        for capture in self._captures.values():
            yield from writing.other_writes(capture, self._add_ids)

    def _open_shard(self, order: Opening) -> Iterator[Write]:
        shard = order.header.shard
        self._captures[shard] = capture = Capture(
            order.header,
            *({}, {}, {}, {}, {}, {}),
            deleted_promises=order.deleted_promises,
            deleted_tasks=order.deleted_tasks,
            packed_names=order.packed_names,
        )
        yield from writing.deletions(shard, capture, self._decoder, self._open_view)

    def _take_completed(self, order: Completed) -> Iterator[Write]:
        self._completed += writing.shared_out(order.shards, order.packed)
        self._packed += order.packed
        if len(self._packed) >= writing.GROUP_COUNT:
            yield from self._completed_writes()

    def _completed_writes(self) -> Iterator[Write]:
        """Yield the rows of the completed promises that have come."""
        some, packed = self._completed, self._packed
        self._completed, self._packed = [], []
        if not packed:
            return
        yield from writing.completed_writes(some, packed, self._begin.stored)
        self._ids += writing.id_entries(some)
