"""The place of a process among those of its server, and what processes say to greet each other.

Processes of one server have the same data id, speak the same version of the protocol, and know
each other's numbers. A process that starts again has a larger incarnation.
"""

from functools import cached_property
from itertools import accumulate
from typing import Final

import msgspec
from msgspec import Struct

from troth.core.json_errors import UNREADABLE_JSON
from troth.persistence.placement import groups_by_shard

from .frames import LinkDamaged, PeerSucceeded
from .owners import Owners

PROTOCOL_VERSION: Final = 3


class ProcessPlace(Struct, dict=True):
    """One process of a server: its number, which is that of its group, and what all of them share.

    Only `incarnation` changes, before anything is said: where nodes share groups, it is the epoch
    in which this process owns its group.
    `group_shards` says how many shards each group has; those of a group follow one another.
    `links_directory` is where the sockets of links are; only this user may enter it.
    """

    process: int
    group_shards: tuple[int, ...]
    data_id: str
    links_directory: str
    incarnation: int

    @property
    def count(self) -> int:
        """The number of processes."""
        return len(self.group_shards)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The group of each shard, by its index."""
        return groups_by_shard(self.group_shards)

    def shards_of(self, group: int) -> range:
        """Return the indexes of a group's shards."""
        ends = list(accumulate(self.group_shards, initial=0))
        return range(ends[group], ends[group + 1])


class Greeting(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first that is said in each direction of a link."""

    protocol: int
    data_id: str
    process: int
    incarnation: int


_decode: Final = msgspec.msgpack.Decoder(Greeting).decode


def encode_hello(place: ProcessPlace) -> bytes:
    """Return how a process says who it is."""
    return msgspec.msgpack.encode(
        Greeting(PROTOCOL_VERSION, place.data_id, place.process, place.incarnation)
    )


def checked_hello(
    body: bytes, place: ProcessPlace, peer: int | None, owners: Owners | None = None
) -> Greeting:
    """Read what another process has said of itself. Raises LinkDamaged unless it belongs here.

    `peer` is its number, if that is known. Raises PeerSucceeded where `owners` know of a later one:
    its greeting was on its way while that one began.
    """
    try:
        hello = _decode(body)
    except UNREADABLE_JSON as error:
        raise LinkDamaged(f"a greeting cannot be read: {error}") from error
    if hello.protocol != PROTOCOL_VERSION:
        raise LinkDamaged(f"it speaks version {hello.protocol}, this process {PROTOCOL_VERSION}")
    if hello.data_id != place.data_id:
        raise LinkDamaged("it belongs to another data directory")
    is_other = 0 <= hello.process < place.count and hello.process != place.process
    if not is_other or peer not in (None, hello.process):
        raise LinkDamaged(f"it says that it is process {hello.process}")
    if owners is not None:
        epoch = owners.epoch_of(hello.process)
        if hello.incarnation < epoch:
            raise PeerSucceeded(
                f"it was succeeded: it is of epoch {hello.incarnation}, not {epoch}"
            )
        if peer is None:  # it came by a socket of this machine
            owners.met(hello.process, owners.here, hello.incarnation)
        owners.heard_of(hello.process, hello.incarnation)
    return hello
