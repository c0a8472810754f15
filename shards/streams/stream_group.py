"""One group of a cluster, and the process that has it on a node."""

from collections.abc import Callable
from dataclasses import dataclass

from troth.persistence.identity import Identity
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.sharing import ClaimTurn
from troth.shards.storage import GroupPlace


@dataclass(frozen=True, slots=True)
class StreamGroup:
    """One group of a cluster, and the process that has it on this node.

    `place` is its directory. `identity` is that of the cluster. `incarnation` tells this process
    from all others; `may_claim` says whether it may try to own the stream now, if it is free.
    `ended` gives those that had the group here before, and are gone; as long as one of them is not,
    this process `is_early`: it only reads, and leaves the directory as it is. `features` is the
    cluster's number (`persistence/streams/features.py`). `turn` is there if nodes share the groups:
    then `may_claim` is its, and a node that stands by says once a second that it does.
    """

    place: GroupPlace
    identity: Identity
    incarnation: int
    may_claim: Callable[[], bool]
    ended: Callable[[], frozenset[int]] = frozenset
    features: int = FEATURES
    turn: ClaimTurn | None = None
    is_early: Callable[[], bool] = lambda: False
