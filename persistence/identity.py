"""Who a data directory is: the content of `troth.json`, which is fixed when it is made."""

import json
import os
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c

from troth.core.limits import GROUPS_LIMIT_COUNT

from .errors import DataDirectoryUnreadable, OldFormatVersion, UnknownFormatVersion
from .placement import DEFAULT_RULE, PlacementRule

FORMAT_VERSION: Final = 2
IDENTITY_NAME: Final = "troth.json"
MOVED_NAME: Final = "troth.json.moved"
"""What `troth.json` is called where all of the directory was moved elsewhere."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What `troth.json` says; fixed when the directory is made.

    `group_shards` has the number of shards of each group; those of a group follow one another.
    """

    data_id: bytes
    group_shards: tuple[int, ...]
    created_at_ms: int
    secret: bytes
    placement: PlacementRule = DEFAULT_RULE

    @property
    def shard_count(self) -> int:
        """The number of shards of all groups."""
        return sum(self.group_shards)

    @property
    def groups_count(self) -> int:
        """The number of groups."""
        return len(self.group_shards)

    def shards_of(self, group: int) -> range:
        """Return the indexes of a group's shards."""
        first = sum(self.group_shards[:group])
        return range(first, first + self.group_shards[group])


def encode_identity(identity: Identity) -> bytes:
    """Return the content of `troth.json`."""
    fields: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "data_id": identity.data_id.hex(),
        "groups": identity.groups_count,
        "group_shards": [*identity.group_shards],
        "placement": str(identity.placement),
        "created_at_ms": identity.created_at_ms,
        "secret": identity.secret.hex(),
    }
    return (json.dumps({**fields, "checksum": _checksum(fields)}, indent=2) + "\n").encode()


def decode_identity(path: str, content: bytes) -> Identity:
    """Return what `troth.json` says.

    Raises `DataDirectoryUnreadable`, `UnknownFormatVersion` or `OldFormatVersion`.
    """
    version, identity = decode_any_identity(path, content)
    if version < FORMAT_VERSION:
        raise OldFormatVersion(os.path.dirname(path) or ".", version, FORMAT_VERSION)
    return identity


def decode_any_identity(path: str, content: bytes) -> tuple[int, Identity]:
    """Return the format's version, which may be an older one, and the identity.

    For what reads old directories to make new ones; raises as `decode_identity`.
    """
    try:
        fields = json.loads(content)
        version = fields["format_version"]
        if type(version) is int and version > FORMAT_VERSION:
            raise UnknownFormatVersion(path, version, FORMAT_VERSION)
        if fields.pop("checksum") != _checksum(fields) or version not in (1, FORMAT_VERSION):
            raise ValueError("its checksum does not match its content")
        if version == 1:
            group_shards, placement = [fields["shard_count"]], PlacementRule.ID
        else:
            group_shards, placement = fields["group_shards"], fields["placement"]
            if len(group_shards) != fields["groups"]:
                raise ValueError("groups and group_shards differ")
        if not 1 <= len(group_shards) <= GROUPS_LIMIT_COUNT or min(group_shards) < 1:
            raise ValueError("it has a group without shards, or no group")
        return version, Identity(
            bytes.fromhex(fields["data_id"]),
            tuple(group_shards),
            fields["created_at_ms"],
            bytes.fromhex(fields["secret"]),
            PlacementRule(placement),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataDirectoryUnreadable(
            path,
            f"is damaged or was edited ({type(error).__name__}: {error})",
            f"Restore {IDENTITY_NAME} from a backup of this directory.",
        ) from error


def _checksum(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return f"{google_crc32c.value(canonical):08x}"
