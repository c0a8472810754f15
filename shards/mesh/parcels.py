"""Parcels: what one process hands another, in order, each once, as long as both live.

A note (`calls.py`) is lost with its link. A parcel is kept until the other process has said that it
has it; when the link has come up again, what may be missing is sent again, and what comes twice is
dropped there. A process that was started again gets nothing of what was for the one before it.
Those that follow one another are one frame of the link.

What is kept is bounded. Who can wait asks `has_room` before, and is told by `when_room` when there
is. Where more is handed over than can be kept, all of it is dropped.

`when_lost` says of another process that it may not have what it was handed, or this one not what
that one has handed over: it was started again, or something was dropped.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, final

from msgspec import Struct

from troth.core.limits import (
    PARCELS_LIMIT_BYTES,
    PARCELS_LIMIT_COUNT,
    PARCELS_WAITING_COUNT,
)

from .calls import ProcessCalls, ProcessNote
from .codec import content_decoder, encode_content
from .frames import LinkDamaged

Content = TypeVar("Content", bound=Struct)

RECEIPT_COUNT: Final = 32
"""After so many parcels their receipt is told; otherwise some times a second."""


_Parcel = tuple[int, int, int, bool, Any]
"""The incarnation of who sends it, a series, a number, whether parcels before this series were
dropped, and the content, or None. Each process counts parcels from 1 in every series."""


class _Receipt(Struct, frozen=True, array_like=True, gc=False):
    """All parcels of a series are there, up to a number."""

    incarnation: int
    series: int
    number: int


_RECEIPT: Final = ProcessNote("parcel-receipt", _Receipt)


@final
class _Outbound:
    """The parcels for one process."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.series = 0
        self.number = 0
        self.kept: deque[tuple[_Parcel, int]] = deque()
        """Parcels and how many bytes each takes."""
        self.kept_bytes = 0
        self.has_lost = False
        self.is_after_loss = False

    def begin(self) -> None:
        """Begin a new series; what was kept is dropped."""
        self.series += 1
        self.number = 0
        self.drop()
        self.is_after_loss, self.has_lost = self.has_lost, False

    def drop(self) -> None:
        """Drop what was kept."""
        self.kept.clear()
        self.kept_bytes = 0


@final
class _Inbound:
    """What has come from one process."""

    __slots__ = ("incarnation", "number", "series", "told_number")

    def __init__(self) -> None:
        self.incarnation = self.series = 0
        self.number = self.told_number = 0


@final
class Parcels(Generic[Content]):
    """The parcels between this process and all others.

    `kind` is the type of the contents. `take` is given the process that a parcel comes from, and
    its content. Up to `waiting_count` parcels and `limit_bytes` there is room; `limit_count` are
    kept.
    """

    def __init__(
        self,
        kind: Any,
        calls: ProcessCalls,
        incarnation: int,
        take: Callable[[int, Content], None],
        *,
        when_room: Callable[[int], None],
        when_lost: Callable[[int], None],
        waiting_count: int = PARCELS_WAITING_COUNT,
        limit_count: int = PARCELS_LIMIT_COUNT,
        limit_bytes: int = PARCELS_LIMIT_BYTES,
    ) -> None:
        self._calls = calls
        self.incarnation = incarnation
        """That of this process; it changes only before anything is handed over."""
        self._decode = content_decoder(list[tuple[int, int, int, bool, kind | None]])
        self._take_content = take
        self._when_room = when_room
        self._when_lost = when_lost
        self._waiting_count = waiting_count
        self._limit_count = limit_count
        self._limit_bytes = limit_bytes
        self._outbound = {process: _Outbound() for process in calls.others}
        self._inbound = {process: _Inbound() for process in calls.others}
        self._linked: set[int] = set()
        calls.take_parcels = self._take
        calls.hear(_RECEIPT, self._received)
        calls.when_linked.append(self._came_up)
        calls.when_parted.append(self._linked.discard)
        calls.when_looking.append(self._look)

    def room_count(self, process: int) -> int:
        """Return how many parcels a process can be handed now; 0 if there is no link to it."""
        way = self._outbound[process]
        if process not in self._linked or way.has_lost or way.kept_bytes >= self._limit_bytes:
            return 0
        return max(0, self._waiting_count - len(way.kept))

    def put(self, process: int, content: Content) -> None:
        """Hand something to a process, now or when there is a link."""
        way = self._outbound[process]
        if way.has_lost:
            return
        if len(way.kept) >= self._limit_count:
            way.drop()
            way.has_lost = True
            return
        self._put(process, way, content)

    def _put(self, process: int, way: _Outbound, content: Content | None) -> None:
        number = way.number + 1
        parcel = self.incarnation, way.series, number, way.is_after_loss, content
        if process in self._linked:
            size_bytes = self._calls.parcel(process, parcel)
        else:
            size_bytes = 0 if content is None else len(encode_content(content)[0])
        way.number = number  # there was memory for it
        way.kept.append((parcel, size_bytes))
        way.kept_bytes += size_bytes

    def _look(self) -> None:
        """Tell what has come since the last time."""
        for process, way in self._inbound.items():
            if way.told_number < way.number:
                self._tell_receipt(process, way)

    def _came_up(self, process: int) -> None:
        way, incarnation = self._outbound[process], self._calls.incarnation_of(process)
        self._meet(process, incarnation)
        if incarnation < way.incarnation:
            return
        if way.has_lost:
            self._begin(process, way)
        self._linked.add(process)
        for parcel, _ in way.kept:
            self._calls.parcel(process, parcel)
        self._when_room(process)

    def _meet(self, process: int, incarnation: int) -> None:
        """Begin a series for a process that was started again: by its link or by what it says.

        There may be a link to the one before yet. Nothing of the new series goes there: that one
        would say that it has it.
        """
        way = self._outbound[process]
        if way.incarnation < incarnation:
            way.incarnation = incarnation
            if self._calls.incarnation_of(process) < incarnation:
                self._linked.discard(process)
            self._begin(process, way)

    def _begin(self, process: int, way: _Outbound) -> None:
        way.begin()
        if way.is_after_loss:
            self._put(process, way, None)  # so that it hears of the loss
        self._when_lost(process)

    def _take(self, process: int, body: bytes, flags: int) -> None:
        """Take parcels that have come together. Raises LinkDamaged."""
        way = self._inbound[process]
        for incarnation, series, number, is_after_loss, content in self._decode(body, flags):
            if incarnation < way.incarnation:
                continue  # from the one before
            if (way.incarnation, way.series) != (incarnation, series):
                self._begin_inbound(process, way, incarnation, series)
                if is_after_loss:
                    self._when_lost(process)
            if number <= way.number:
                way.told_number = 0  # it has come again, so the receipt was lost
                continue
            if number != way.number + 1:
                raise LinkDamaged(f"parcel {number} came after {way.number}")
            way.number = number
            if content is not None:
                self._take_content(process, content)
        if way.number - way.told_number >= RECEIPT_COUNT:
            self._tell_receipt(process, way)

    def _begin_inbound(self, process: int, way: _Inbound, incarnation: int, series: int) -> None:
        self._meet(process, incarnation)
        way.incarnation, way.series = incarnation, series
        way.number = way.told_number = 0

    def _tell_receipt(self, process: int, way: _Inbound) -> None:
        """Tell up to where parcels have come; if this is lost, they come again with the link."""
        way.told_number = way.number
        self._calls.note(process, _RECEIPT, _Receipt(way.incarnation, way.series, way.number))

    def _received(self, process: int, receipt: _Receipt) -> None:
        way = self._outbound[process]
        if receipt.incarnation != self.incarnation or receipt.series != way.series:
            return
        if way.has_lost:  # and it listens
            self._begin(process, way)
        kept = way.kept
        while kept and kept[0][0][2] <= receipt.number:
            way.kept_bytes -= kept.popleft()[1]
        self._when_room(process)
