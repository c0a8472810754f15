"""The server's log lines when it is ready, and about its start."""

import structlog

from troth import __version__
from troth.http.sockets.descriptors import part_of
from troth.shards.storage import Recovery

from .parts import Parts

_log = structlog.get_logger("troth.serve")


def announce(parts: Parts, recovery: Recovery, *, is_one_of_several: bool = False) -> None:
    """Log that the server, or this process of it, is ready, and what was noticed at its start."""
    if recovery.doubt is not None:
        _log.warning(
            "the log may have lost its end: what was acknowledged from this sequence on may be "
            "missing, unless the server was killed at just that moment; compare with a backup",
            file=recovery.doubt.file,
            sequence=recovery.doubt.next_sequence,
            problem=recovery.doubt.reason,
        )
    if recovery.torn_bytes_count:
        _log.warning(
            "the log ended in a batch that a crash left half-written; it had not been "
            "acknowledged, and was cut off",
            torn_bytes=recovery.torn_bytes_count,
            file=recovery.torn_file,
        )
    limit_count = parts.settings.connection_limit_count
    if parts.shares.incoming_count < part_of(limit_count, parts.processes_count):
        _log.warning(
            "fewer connections than connection_limit_count says: raise the limit of open files "
            "(ulimit -n, or LimitNOFILE of the service)",
            connections=parts.shares.incoming_count,
            connection_limit_count=limit_count,
            open_files=parts.shares.limit_count,
        )
    memory = parts.memory
    if memory.is_lowered:
        _log.warning(
            "fewer bytes in flight than in_flight_limit_bytes says: allow this process more memory "
            "(ulimit -v, ulimit -d, or MemoryMax of the service)",
            in_flight_bytes=memory.in_flight_bytes,
            in_flight_limit_bytes=parts.settings.in_flight_limit_bytes,
            memory_left_bytes=memory.headroom_bytes,
        )
    if parts.settings.debug_operations:
        _log.warning("debug operations are on: any program here can delete everything")
    promises = sum(shard.promises_count for shard in parts.shards.statistics().shards)
    _log.info(
        # All of them together are ready when their supervisor says so.
        "this process is ready" if is_one_of_several else "ready",
        version=__version__,
        directory=parts.storage.place,
        promises=promises,
        records=recovery.records_count,
        recovery_ms=recovery.duration_ms,
        api=parts.url,
    )
    if parts.settings.in_memory:
        # There is no data directory that it could be read from.
        key = parts.api.credentials.operator_key
        _log.info("the operator's key, for this run", key=key)
