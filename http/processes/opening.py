"""Opening what a server, or one process of several, keeps its records in."""

import trio

from troth.http.settings.settings import Settings
from troth.http.supervision.seat import ProcessSeat
from troth.http.supervision.seated import Seated
from troth.shards.storage import DirectoryStorage, GroupPlace, MemoryStorage, Storage
from troth.shards.threads import in_thread


def open_storage(settings: Settings, seated: Seated | None = None) -> Storage:
    """Open what the server keeps its records in; `seated` is this process among several.

    Raises a DataDirectoryError.
    """
    if settings.in_memory:
        return MemoryStorage(settings.shards)
    place = None if seated is None else place_of(seated.seat)
    if settings.log is not None:
        # Only here: other servers need none of it.
        from troth.shards.streams.stream_opening import NatsOptions, open_group, open_stream

        nats = NatsOptions(settings.replicas, settings.nats_monitor, settings.unsafe_fsync)
        if settings.cluster is None:
            return open_stream(settings.log, settings.data, settings.shards, settings.node, nats)
        assert seated is not None, "a cluster has several groups"
        assert place is not None
        return open_group(
            settings.log,
            settings.cluster,
            place,
            settings.node,
            nats,
            incarnation=seated.seat.incarnation,
            may_claim=seated.may_claim,
            ended=lambda: seated.ended,
            is_early=lambda: seated.is_early,
            is_shared=settings.mesh_listen is not None,
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


async def open_group_storage(settings: Settings, seated: Seated) -> Storage:
    """Open the storage of one of several processes whose log is in an engine, which may take long.

    It says that it lives in the meantime.
    """
    opened: list[Storage] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seated.run)
        opened.append(await in_thread(lambda: open_storage(settings, seated)))
        nursery.cancel_scope.cancel()
    return opened[0]
