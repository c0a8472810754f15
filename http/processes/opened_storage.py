"""Opening what a server, or one process of several, keeps its records in, and closing it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from troth.http.causes import keeping_the_cause
from troth.http.settings.settings import Settings
from troth.http.supervision.seat import ProcessSeat
from troth.http.supervision.seated import Seated
from troth.shards.storage import DirectoryStorage, GroupPlace, MemoryStorage, Storage
from troth.shards.threads import in_thread


def _open_storage(settings: Settings, seated: Seated | None) -> Storage:
    if settings.in_memory:
        return MemoryStorage(settings.shards)
    place = None if seated is None else place_of(seated.seat)
    if settings.log is not None:
        # Only here: other servers need none of it.
        from troth.shards.streams.stream_opening import open_group, open_stream

        if settings.cluster is None:
            return open_stream(settings.log, settings.data, settings.shards, settings.node)
        assert seated is not None, "a cluster has several groups"
        assert place is not None
        return open_group(
            settings.log,
            settings.cluster,
            place,
            settings.node,
            incarnation=seated.seat.incarnation,
            may_claim=seated.may_claim,
        )
    return DirectoryStorage(
        settings.data,
        settings.shards,
        settings.segment_bytes,
        archive_directory=settings.archive_directory,
        archive_keep_ms=settings.archive_keep_ms,
        place=place,
    )


def place_of(seat: ProcessSeat) -> GroupPlace:
    """Return which group of the directory is a process's."""
    return GroupPlace(seat.data, seat.process, seat.lock)


@contextmanager
def opened_storage(settings: Settings, seated: Seated | None = None) -> Iterator[Storage]:
    """Open what the server keeps its records in, and close it; what ended the server counts.

    `seated` is this process among several, if there are several.
    """
    with closing_storage(_open_storage(settings, seated)) as storage:
        yield storage


@asynccontextmanager
async def opened_group(settings: Settings, seated: Seated) -> AsyncIterator[Storage]:
    """Do the same for one of several processes whose log is in an engine, which may take long.

    It says that it lives in the meantime. It ends when that is over, even if it is to stop.
    """
    opened: list[Storage] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seated.run)
        opened.append(await in_thread(lambda: _open_storage(settings, seated)))
        nursery.cancel_scope.cancel()
    with closing_storage(opened[0]) as storage:
        yield storage


@contextmanager
def closing_storage(storage: Storage) -> Iterator[Storage]:
    """Close a storage at the end of a block; what ended the server counts."""
    try:
        yield storage
    except BaseException:
        with keeping_the_cause("closing the data directory"):
            storage.close()
        raise
    storage.close()
