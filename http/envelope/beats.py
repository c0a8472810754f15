"""A heartbeat that names very many tasks: its body is read in slices, with others in between.

A worker names all that it holds, so there is no limit to them but the body's.
"""

from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta, Raw

from troth.core.limits import RENEWALS_SLICE_COUNT
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_within
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import Principal

from . import fields as f
from .operations import EMPTY


class _Parts(f.Camel):
    """As `fields.TaskHeartbeatData`, with tasks that are not read yet."""

    pid: f.Text
    tasks: Annotated[list[Raw], Meta(min_length=1)]


_parts: Final = msgspec.json.Decoder(_Parts)
_one: Final = msgspec.json.Decoder(f.HeldTask)
_some: Final = msgspec.json.Decoder(list[f.HeldTask])


async def renew_many(api: Api, principal: Principal, data: Raw) -> bytes:
    """Renew what the heartbeat names; return the JSON text of the answer.

    Nothing is renewed before all is read. Raises ApiError, and as `Shards.renew_workflows`.
    """
    await trio.lowlevel.checkpoint()
    parts = f.decoded(_parts, data)
    tasks: list[tuple[str, int]] = []
    for first in range(0, len(parts.tasks), RENEWALS_SLICE_COUNT):
        await trio.lowlevel.checkpoint()
        some = _read(parts.tasks[first : first + RENEWALS_SLICE_COUNT], first)
        if principal.id_prefix:
            refuse_unless_within(principal, (task.id for task in some))
        tasks += [(task.id, task.version) for task in some]
    await api.shards.renew_workflows(parts.pid, tasks)
    return EMPTY


def _read(texts: list[Raw], first: int) -> list[f.HeldTask]:
    """Return the tasks from the `first` on. Raises ApiError (400) that names the wrong one."""
    try:
        return f.decoded(_some, Raw(b"[%b]" % b",".join(texts)))
    except ApiError:
        for number, text in enumerate(texts, first):
            f.decoded(_one, text, f"data.tasks[{number}]")
        raise
