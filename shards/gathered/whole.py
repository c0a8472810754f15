"""What is known of a server as a whole: how many there are of what, what failed, how it went on.

`OneProcess` says it of a server of one process, `AllProcesses` of one of several: then each process
is asked, and if one is away, there is no answer (`asking.py`). What is told of failures is durable.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol, final

from msgspec import Struct

from troth.core.failures import Failure, FailureKind, Failures
from troth.core.state.counts import Counts
from troth.shards.mesh.calls import ProcessCall, ProcessCalls
from troth.shards.surveys.series import SeriesBook
from troth.shards.surveys.shown_failures import newest_failures

from .asking import ask_all, ask_each
from .joined_series import SeriesPart, joined, last_values


class ServerNumbers(Struct, frozen=True, array_like=True):
    """How many promises and tasks there are, as `Counts.numbers`, and between which serials.

    Of several processes, `promises_counts` has how many promises each has, and `largest_serials`
    what none that was there is above.
    """

    numbers: tuple[int, ...]
    oldest_serial: int
    largest_serial: int
    promises_counts: tuple[int, ...] = ()
    largest_serials: tuple[int, ...] = ()

    @property
    def counts(self) -> Counts:
        """The counts by state."""
        return Counts.of_numbers(self.numbers)


class FailuresQuery(Struct, frozen=True, array_like=True):
    """Which failures are wanted; see `newest_failures`."""

    kinds: tuple[FailureKind, ...]
    limit_count: int
    before: int | None
    id_prefix: str


class FailuresFound(Struct, frozen=True, array_like=True):
    """Failures, and whether there are more."""

    failures: list[Failure]
    has_more: bool


class SeriesQuery(Struct, frozen=True, array_like=True):
    """The resolution of the values that are wanted, and the time that they are later than."""

    resolution: str
    since_ms: int


NUMBERS: Final = ProcessCall("numbers", type(None), ServerNumbers)
FAILURES: Final = ProcessCall("failures", FailuresQuery, FailuresFound)
LATER_FAILURES: Final = ProcessCall("failures.later", int, list[Failure])
SERIES: Final = ProcessCall("series", SeriesQuery, SeriesPart)
LAST_SERIES: Final = ProcessCall("series.last", type(None), SeriesPart)


class KnownShards(Protocol):
    """The part of `shards.Shards` that is needed."""

    failures: Failures

    def counts(self) -> Counts:
        """Return how many promises and tasks are in each state now."""
        ...  # pragma: no cover

    @property
    def oldest_serial(self) -> int:
        """The serial of the oldest promise."""
        ...  # pragma: no cover

    @property
    def largest_serial(self) -> int:
        """A serial that none of what exists is above."""
        ...  # pragma: no cover

    async def wait_shown(self) -> None:
        """Wait until all that can be seen now is durable."""
        ...  # pragma: no cover


class WholeServer(Protocol):
    """What is asked of a server as a whole. Each method raises ShardsError."""

    async def numbers(self) -> ServerNumbers:
        """Return how many promises and tasks there are."""
        ...  # pragma: no cover

    async def failures(
        self, kinds: Collection[FailureKind], limit_count: int, before: int | None, id_prefix: str
    ) -> tuple[list[Failure], bool]:
        """Return the newest failures of some kinds, newest first, and whether there are more."""
        ...  # pragma: no cover

    async def later_failures(self, seen: dict[int, int]) -> list[Failure]:
        """Return all failures after those with the numbers in `seen`, which is brought forward.

        It has the last number of each process.
        """
        ...  # pragma: no cover

    async def series(self, resolution: str, since_ms: int) -> SeriesPart:
        """Return all series from a moment on."""
        ...  # pragma: no cover

    async def last_series(self) -> Mapping[str, float]:
        """Return the values of the last second."""
        ...  # pragma: no cover


@final
class OneProcess:
    """A server of one process, or what one of several says of itself."""

    def __init__(self, shards: KnownShards, book: SeriesBook) -> None:
        self._shards = shards
        self._book = book

    async def numbers(self) -> ServerNumbers:
        """See `WholeServer`."""
        shards = self._shards
        return ServerNumbers(shards.counts().numbers(), shards.oldest_serial, shards.largest_serial)

    async def failures(
        self, kinds: Collection[FailureKind], limit_count: int, before: int | None, id_prefix: str
    ) -> tuple[list[Failure], bool]:
        """See `WholeServer`."""
        found = newest_failures(self._shards.failures, kinds, limit_count, before, id_prefix)
        await self._shards.wait_shown()
        return found

    async def later_failures(self, seen: dict[int, int]) -> list[Failure]:
        """See `WholeServer`."""
        later = self._shards.failures.later_than(seen.get(0, 0))
        if later:
            seen[0] = later[-1].number
            await self._shards.wait_shown()
        return later

    async def series(self, resolution: str, since_ms: int) -> SeriesPart:
        """See `WholeServer`."""
        return SeriesPart.of(self._book, resolution, since_ms)

    async def last_series(self) -> Mapping[str, float]:
        """See `WholeServer`."""
        return last_values([SeriesPart.last_of(self._book)])


@final
class AllProcesses:
    """A server of several processes."""

    def __init__(self, calls: ProcessCalls, shards: KnownShards, book: SeriesBook) -> None:
        own = OneProcess(shards, book)
        self._calls = calls

        async def numbers(_process: int, _asked: None) -> ServerNumbers:
            found = await own.numbers()
            await shards.wait_shown()
            return found

        async def failures(_process: int, asked: FailuresQuery) -> FailuresFound:
            return FailuresFound(
                *await own.failures(asked.kinds, asked.limit_count, asked.before, asked.id_prefix)
            )

        async def later_failures(_process: int, after: int) -> list[Failure]:
            return await own.later_failures({0: after})

        async def series(_process: int, asked: SeriesQuery) -> SeriesPart:
            return await own.series(asked.resolution, asked.since_ms)

        async def last_series(_process: int, _asked: None) -> SeriesPart:
            return SeriesPart.last_of(book)

        calls.handle(NUMBERS, numbers)
        calls.handle(FAILURES, failures)
        calls.handle(LATER_FAILURES, later_failures)
        calls.handle(SERIES, series)
        calls.handle(LAST_SERIES, last_series)

    async def numbers(self) -> ServerNumbers:
        """See `WholeServer`."""
        found = await ask_all(self._calls, NUMBERS, None)
        columns = zip(*(one.numbers for one in found), strict=True)
        return ServerNumbers(
            tuple(map(sum, columns)),
            min((one.oldest_serial for one in found if one.oldest_serial), default=0),
            max(one.largest_serial for one in found),
            tuple(sum(one.counts.promises.values()) for one in found),
            tuple(one.largest_serial for one in found),
        )

    async def failures(
        self, kinds: Collection[FailureKind], limit_count: int, before: int | None, id_prefix: str
    ) -> tuple[list[Failure], bool]:
        """See `WholeServer`."""
        query = FailuresQuery(tuple(kinds), limit_count, before, id_prefix)
        parts = await ask_all(self._calls, FAILURES, query)
        found = [one for part in parts for one in part.failures]
        found.sort(key=lambda one: -one.number)
        has_more = len(found) > limit_count or any(part.has_more for part in parts)
        return found[:limit_count], has_more

    async def later_failures(self, seen: dict[int, int]) -> list[Failure]:
        """See `WholeServer`."""
        asked = {one: seen.get(one, 0) for one in (self._calls.own, *self._calls.others)}
        parts = await ask_each(self._calls, LATER_FAILURES, asked)
        for process, later in parts.items():
            if later:
                seen[process] = later[-1].number
        return sorted(
            (one for later in parts.values() for one in later), key=lambda one: one.number
        )

    async def series(self, resolution: str, since_ms: int) -> SeriesPart:
        """See `WholeServer`."""
        asked = SeriesQuery(resolution, since_ms)
        return joined(await ask_all(self._calls, SERIES, asked), since_ms)

    async def last_series(self) -> Mapping[str, float]:
        """See `WholeServer`."""
        return last_values(await ask_all(self._calls, LAST_SERIES, None))


async def serials_by_shard(whole: WholeServer, groups: Sequence[int]) -> tuple[int, ...]:
    """Return for each shard a serial that none of what it has is above. Raises ShardsError.

    `groups` has the group of each.
    """
    serials = (await whole.numbers()).largest_serials
    return tuple(serials[group] for group in groups)
