"""What processes say to one another, as text: nodes of two versions do so during an upgrade.

`python -m tests.shards.mesh.test_spoken` writes it again, to be read before it is committed. A
field at the end that has a default may be added: the other version leaves it out, or skips it. For
everything else see `persistence/streams/features.py`: it is said only where the cluster's number
says that all members understand it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from troth.core.replies import Reply
from troth.persistence.streams.features import FEATURES
from troth.shards.guard.trust import Callee, Party, Use
from troth.shards.mesh.codec import COMMANDS
from troth.shards.mesh.frames import FrameFlag, Kind
from troth.shards.mesh.place import PROTOCOL_VERSION, Greeting

GOLDEN = Path(__file__).with_name("spoken.txt")
SAID = (*COMMANDS, *(get_args(Reply) or (Reply,)))


def _fields(kind: Any) -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        yield field.name if field.required else f"{field.name}?"


def _spoken() -> str:
    lines = [f"protocol {PROTOCOL_VERSION}, features {FEATURES}"]
    for numbers in (Kind, FrameFlag, Use):
        lines += [f"{numbers.__name__} {one.value} {one.name}" for one in numbers]
    for kind in (Greeting, Party, Callee, *sorted(SAID, key=lambda one: one.__name__)):
        tag = kind.__struct_config__.tag
        lines.append(" ".join([f"{tag or kind.__name__}:", *_fields(kind)]))
    return "\n".join(lines) + "\n"


def test_what_is_said_between_nodes_is_what_the_version_before_understands() -> None:
    assert _spoken() == GOLDEN.read_text(), "see the head of this file before you write it again"


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_a_field_that_a_later_version_adds_is_skipped(kind: Any) -> None:
    config = kind.__struct_config__
    assert config.array_like
    assert not config.forbid_unknown_fields
    fields = [field.required for field in msgspec.structs.fields(kind)]
    assert fields == sorted(fields, reverse=True), "those that may be left out come last"


if __name__ == "__main__":
    GOLDEN.write_text(_spoken())
