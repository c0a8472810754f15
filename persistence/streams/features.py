"""What members of a cluster can read, as one number, which grows with what later versions add.

A version reads everything up to its `FEATURES`. The cluster has a number too: what came with a
later one is not written. `troth cluster finalize` raises it when all members read more; from then
on a server that does not is refused. So an upgrade can be taken back until then.

Links between nodes (`shards/mesh/`) go by the same number. A field at the end of what is said, with
a default, needs none: the other version leaves it out, or skips it. A new kind of frame, command or
call does, and links keep their protocol's number, or the nodes of two versions have none.
`tests/shards/mesh/test_spoken.py` finds what was changed.

Who adds a kind of record, frame or message that older versions cannot read counts `FEATURES` up,
names what is new here, and writes it only where the cluster's number is as high.
"""

from collections.abc import Mapping
from typing import Final

from .stream import StreamRefused

FEATURES: Final = 1
"""What this version reads. 1 is what there was when clusters began."""

RECORD_FEATURES: Final[Mapping[str, int]] = {}
"""The tags of kinds of records that came later, with the number that they came with."""


def withheld_starts(features: int) -> tuple[bytes, ...]:
    """Return how records begin that are not to be written where the number is `features`."""
    later = (tag for tag, since in RECORD_FEATURES.items() if since > features)
    return tuple(f'["{tag}"'.encode() for tag in later)


def refuse_later(name: str, features: int) -> None:
    """Raise StreamRefused if what a cluster's members write may be more than this version reads."""
    if features > FEATURES:
        raise StreamRefused(
            f"{name}: the cluster was finalized for a later version of Troth (features "
            f"{features}; this one reads {FEATURES}). Nothing was changed. Install the version "
            "that its other nodes have."
        )
