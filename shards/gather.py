"""Merging the shards' parts of a search into one page, newest first.

Every entity has a serial number that orders all of the process by creation. A shard answers with
its newest matches below a serial, and how far down it has looked. The page is complete as soon as
no shard can still hold a match that belongs before the page's last row; until then, only the shards
that could are asked to go on. So a page costs what it needs, in slices that leave room for other
work. A page of large rows ends early, so that its answer delays no other request.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from troth.core.limits import INTEGER_MAX, PAGE_LIMIT_BYTES

BEFORE_ALL: Final = {False: INTEGER_MAX, True: 1}
"""Where a search begins: above every serial or, with the other sign, below every one."""


class HasSerial(Protocol):
    """An object with a place in the order of creation, and a size."""

    @property
    def serial(self) -> int:
        """The process-wide serial number."""
        ...  # pragma: no cover

    @property
    def size(self) -> int:
        """The approximate number of characters it has."""
        ...  # pragma: no cover


Row = TypeVar("Row", bound=HasSerial)


@dataclass(frozen=True, slots=True)
class ShardPart(Generic[Row]):
    """One shard's answer: rows, newest first, and where to go on (None: there is no more)."""

    rows: tuple[Row, ...]
    next_before: int | None


async def page(
    ask: Callable[[dict[int, int], int], Awaitable[list[ShardPart[Row]]]],
    shards: list[int],
    limit_count: int,
    before_serial: int | None,
    limit_bytes: int = PAGE_LIMIT_BYTES,
    is_spent: Callable[[], bool] | None = None,
    oldest_first: bool = False,
) -> tuple[list[Row], int | None]:
    """Gather one page.

    `ask` takes {shard: serial to look below} and how many rows to give at most, and gives the parts
    in the same order. The second result is the last row's serial if the page is full, else None
    (rest.md 10.2). It is full, too, when a further row would exceed `limit_bytes`. A page that has
    cost what it may (`is_spent`) ends with what is certain; the second result is then how far all
    shards have looked.
    """
    # Serials as they are, or with the other sign: either way, what comes later is smaller.
    sign = -1 if oldest_first else 1
    rows: list[Row] = []
    certain_count = fitting_bytes = 0
    start = sign * before_serial if before_serial is not None else BEFORE_ALL[oldest_first]
    unread = dict.fromkeys(shards, start)
    while unread:
        # Often all that is left is in one shard: a workflow's promises are.
        share_count = _share(limit_count - certain_count, len(unread))
        wanted = {index: sign * place for index, place in unread.items()}
        for index, part in zip(wanted, await ask(wanted, share_count), strict=True):
            rows.extend(part.rows)
            if part.next_before is None:
                del unread[index]
            else:
                unread[index] = sign * part.next_before
        rows.sort(key=lambda row: sign * row.serial, reverse=True)
        del rows[limit_count:]
        if len(rows) == limit_count:
            last = sign * rows[-1].serial
            unread = {index: place for index, place in unread.items() if place > last}
        # Before these rows nothing can come any more.
        reached = max(unread.values(), default=None)
        certain = [row for row in rows if reached is None or sign * row.serial >= reached]
        for row in certain[certain_count:]:
            fitting_bytes += row.size
            if fitting_bytes > limit_bytes and certain_count:
                return certain[:certain_count], certain[certain_count - 1].serial
            certain_count += 1
        if reached is not None and is_spent is not None and is_spent():
            return certain, sign * reached
    return rows, rows[-1].serial if rows and len(rows) == limit_count else None


def _share(limit_count: int, shards_count: int) -> int:
    """Return how many rows to ask each shard for at a time.

    Ids are spread evenly, so a shard's share of a page is about the same for all. A little more
    leaves few shards to ask a second time; more than that would read too many rows in vain.
    """
    if shards_count <= 1:
        return limit_count
    share = limit_count / shards_count
    return min(limit_count, int(share + share**0.5) + 1)
