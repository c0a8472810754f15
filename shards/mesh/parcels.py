"""Parcels: what one process hands another, in order, each once, as long as both live.

A note (`calls.py`) is lost with its link. A parcel is kept until the other process has said that it
has it; when the link has come up again, what may be missing is sent again, and what comes twice is
dropped there. A process that was started again gets nothing of what was for the one before it.

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


class _Parcel(Struct, frozen=True, array_like=True, gc=False):
    """One parcel. Each process counts them from 1 in every `series`.

    `is_after_loss` says that parcels before this series were dropped.
    """

    incarnation: int
    series: int
    number: int
    is_after_loss: bool
    flags: int
    content: bytes


class _Receipt(Struct, frozen=True, array_like=True, gc=False):
    """All parcels of a series are there, up to a number."""

    incarnation: int
    series: int
    number: int


_NOTHING: Final = b""
_PARCEL: Final = ProcessNote("parcel", _Parcel)
_RECEIPT: Final = ProcessNote("parcel-receipt", _Receipt)


@final
class _Outbound:
    """The parcels for one process."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.series = 0
        self.number = 0
        self.kept: deque[_Parcel] = deque()
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
        self._incarnation = incarnation
        self._decode = content_decoder(kind)
        self._take_content = take
        self._when_room = when_room
        self._when_lost = when_lost
        self._waiting_count = waiting_count
        self._limit_count = limit_count
        self._limit_bytes = limit_bytes
        self._outbound = {process: _Outbound() for process in calls.others}
        self._inbound = {process: _Inbound() for process in calls.others}
        self._linked: set[int] = set()
        calls.hear(_PARCEL, self._take)
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
        self._put(process, way, *encode_content(content))

    def _put(self, process: int, way: _Outbound, body: bytes, flags: int) -> None:
        way.number += 1
        parcel = _Parcel(self._incarnation, way.series, way.number, way.is_after_loss, flags, body)
        way.kept.append(parcel)
        way.kept_bytes += len(body)
        if process in self._linked:
            self._calls.note(process, _PARCEL, parcel)

    def _look(self) -> None:
        """Tell what has come since the last time."""
        for process, way in self._inbound.items():
            if way.told_number < way.number:
                self._tell_receipt(process, way)

    def _came_up(self, process: int) -> None:
        way = self._outbound[process]
        self._meet(process, self._calls.incarnation_of(process))
        if way.has_lost:
            self._begin(process, way)
        self._linked.add(process)
        for parcel in way.kept:
            self._calls.note(process, _PARCEL, parcel)
        self._when_room(process)

    def _meet(self, process: int, incarnation: int) -> None:
        """Begin a series for a process that was started again: by its link or by what it says."""
        way = self._outbound[process]
        if way.incarnation < incarnation:
            way.incarnation = incarnation
            self._begin(process, way)

    def _begin(self, process: int, way: _Outbound) -> None:
        way.begin()
        if way.is_after_loss:
            self._put(process, way, _NOTHING, 0)  # so that it hears of the loss
        self._when_lost(process)

    def _take(self, process: int, parcel: _Parcel) -> None:
        way = self._inbound[process]
        if parcel.incarnation < way.incarnation:
            return  # from the one before
        self._meet(process, parcel.incarnation)
        if (way.incarnation, way.series) != (parcel.incarnation, parcel.series):
            way.incarnation, way.series = parcel.incarnation, parcel.series
            way.number = way.told_number = 0
            if parcel.is_after_loss:
                self._when_lost(process)
        if parcel.number <= way.number:
            way.told_number = 0  # it has come again, so the receipt was lost
            return
        if parcel.number != way.number + 1:
            raise LinkDamaged(f"parcel {parcel.number} came after {way.number}")
        way.number = parcel.number
        if parcel.content != _NOTHING:
            self._take_content(process, self._decode(parcel.content, parcel.flags))
        if way.number - way.told_number >= RECEIPT_COUNT:
            self._tell_receipt(process, way)

    def _tell_receipt(self, process: int, way: _Inbound) -> None:
        """Tell up to where parcels have come; if this is lost, they come again with the link."""
        way.told_number = way.number
        self._calls.note(process, _RECEIPT, _Receipt(way.incarnation, way.series, way.number))

    def _received(self, process: int, receipt: _Receipt) -> None:
        way = self._outbound[process]
        if receipt.incarnation != self._incarnation or receipt.series != way.series:
            return
        if way.has_lost:  # and it listens
            self._begin(process, way)
        kept = way.kept
        while kept and kept[0].number <= receipt.number:
            way.kept_bytes -= len(kept.popleft().content)
        self._when_room(process)
