"""Opening a log in NATS: refused unless its servers sync what they acknowledge to their disks.

All servers that are asked have to be new enough and safe; those that have a copy have to be among
them. One that does not answer may be down, so it is only warned about. Imported only when it is
used.
"""

import structlog

from troth.persistence.streams.jetstream_connection import VERSION_LEAST
from troth.persistence.streams.jetstream_keeping import JetStreamKeeping
from troth.persistence.streams.jetstream_servers import FoundServers, look_at_servers
from troth.persistence.streams.jetstream_stream import JetStreamStream
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable

log = structlog.get_logger("troth.shards.streams")


def nats_clients(
    url: str,
    group: int,
    replicas_count: int | None,
    monitor: str | None,
    unsafe_fsync: bool,
    *,
    may_make: bool = True,
) -> tuple[JetStreamStream, JetStreamKeeping, "Look"]:
    """Return what a group's stream is reached through, and what looks again once it is there.

    Streams are made unless that was done before. Raises StreamRefused before anything is made.
    """
    stream = JetStreamStream(url, group, replicas_count=replicas_count, may_make=may_make)
    name = stream.name
    found = None if monitor is None else look_at_servers(monitor)
    if found is None and not unsafe_fsync:
        raise StreamRefused(
            f"{name}: it is not known whether its servers sync to disk what they acknowledge. Name "
            "their monitors with --nats-monitor, or accept with --unsafe-fsync that a power cut "
            "can lose acknowledged writes."
        )
    if found is not None:
        _check(name, found, unsafe_fsync)
    return stream, JetStreamKeeping(url, group), Look(stream, found, unsafe_fsync)


def _check(name: str, found: FoundServers, unsafe_fsync: bool) -> None:
    """Raise StreamRefused if servers are not as they have to be."""
    if found.too_old:
        least = ".".join(map(str, VERSION_LEAST))
        raise StreamRefused(
            f"{name}: nats-server {least} or newer is needed; too old: {', '.join(found.too_old)}."
        )
    if unsafe_fsync:
        return
    if not found.names:
        raise StreamRefused(
            f"{name}: no monitor answers ({', '.join(found.silent)}). Check --nats-monitor."
        )
    if found.unsafe:
        raise StreamRefused(
            f"{name}: {', '.join(found.unsafe)} acknowledge what no disk has. Set sync_interval: "
            "always in the jetstream block of their configuration, or accept with --unsafe-fsync "
            "that a power cut can lose acknowledged writes."
        )


class Look:
    """Looks at the servers that have a copy, and warns; see `stream_opening.Clients`."""

    def __init__(
        self, stream: JetStreamStream, found: FoundServers | None, unsafe_fsync: bool
    ) -> None:
        self._stream = stream
        self._found = found
        self._unsafe_fsync = unsafe_fsync

    def __call__(self) -> bool:
        """Return whether a power cut can lose what is acknowledged. Raises StreamRefused."""
        found, name = self._found, self._stream.name
        try:
            copies = self._stream.servers()
        except StreamUnreachable as error:
            log.warning("which servers have a copy of the log is not known", problem=str(error))
            copies = ()
        unknown = [one for one in copies if found is None or one not in found.names]
        unsafe = [*unknown, *([] if found is None else found.unsafe)]
        if self._unsafe_fsync:
            if unsafe:
                log.warning(
                    "a power cut can lose acknowledged writes: servers of the log do not sync "
                    "each message to disk, or it is not known whether they do",
                    log=name,
                    servers=unsafe,
                )
        elif unknown and found is not None and not found.silent:
            raise StreamRefused(
                f"{name}: {', '.join(unknown)} have a copy too, and are not asked whether they "
                "sync it to disk. Name their monitors with --nats-monitor as well."
            )
        elif unknown:
            log.warning(
                "servers of the log do not answer: it is not known whether they sync to disk",
                log=name,
                servers=unknown,
            )
        if len(copies) == 1:
            log.warning("the log has no copy: what is acknowledged is on one machine", log=name)
        return bool(unsafe)
