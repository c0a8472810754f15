"""How an error that a shard gives instead of an answer is named between processes.

A process whose log has failed ends, and another one comes after it. So to those who asked it is as
one that has died: it is unknown whether it was done. Their own logs are well.
"""

from typing import Final

from troth.shards.errors import (
    CallFailed,
    LinkBroken,
    OutOfReach,
    Overloaded,
    ShardsError,
    Stopping,
    StorageFailed,
)

from .frames import LinkDamaged

_KINDS: Final[dict[bytes, type[ShardsError]]] = {
    kind.__name__.encode(): kind
    for kind in (Overloaded, Stopping, OutOfReach, LinkBroken, CallFailed)
}
_KINDS[StorageFailed.__name__.encode()] = LinkBroken


def name_of(error: ShardsError) -> bytes:
    """Return what names an error."""
    return type(error).__name__.encode()


def error_of(name: bytes) -> ShardsError:
    """Return the error that a name stands for. Raises LinkDamaged."""
    kind = _KINDS.get(name)
    if kind is None:
        raise LinkDamaged(f"an error that is unknown: {name[:40]!r}")
    return kind()
