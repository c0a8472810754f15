"""What `data` holds in each request of the envelope protocol, and what is checked of it.

The structs say the types and the ranges (envelope.md 2 and 5); a field that is null is as if it
were absent. What they cannot say, `checked_…` does. Whatever is wrong is 400 with a text.
"""

from collections.abc import Iterable
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from troth.core.grammar.targets import target_problem
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.lifecycles import COMPLETION_STATES
from troth.core.limits import INTEGER_MAX
from troth.core.model import EMPTY_VALUE, PromiseState, Value
from troth.http.wire.fields import RequestLimits, size_bytes

from .wire import refused

TARGET_TAG: Final = "resonate:target"
DELAY_TAG: Final = "resonate:delay"

Id = Annotated[str, Meta(min_length=1)]
Text = Annotated[str, Meta(min_length=1)]
NotNegative = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Positive = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
SearchLimit = Annotated[int, Meta(ge=1, le=1000)]
Tags = dict[str, str]


class Camel(Struct, rename="camel"):
    """Fields are spelled as in the protocol."""


class ValueData(Camel):
    """A param or a value."""

    headers: dict[str, str] | None = None
    data: str | None = None


class ById(Camel):
    """A request that names one promise, task or schedule."""

    id: Id


class PromiseCreateData(Camel):
    """`promise.create`."""

    id: Id
    timeout_at: NotNegative
    param: ValueData | None = None
    tags: Tags | None = None


class PromiseSettleData(Camel):
    """`promise.settle`."""

    id: Id
    state: str
    value: ValueData | None = None


class RegisterCallbackData(Camel):
    """`promise.register_callback`, and an action of `task.suspend`."""

    awaited: Id
    awaiter: Id


class RegisterListenerData(Camel):
    """`promise.register_listener`."""

    awaited: Id
    address: Text


class PromiseSearchData(Camel):
    """`promise.search`."""

    state: str | None = None
    tags: Tags | None = None
    limit: SearchLimit | None = None
    cursor: str | None = None


class ActionOf(Struct):
    """An action within a request. Its head is not looked at, its kind only in `task.fence`."""

    data: Raw
    kind: str | None = None


class TaskCreateData(Camel):
    """`task.create`."""

    pid: Text
    ttl: Positive
    action: ActionOf


class TaskAcquireData(Camel):
    """`task.acquire`."""

    id: Id
    version: NotNegative
    pid: Text
    ttl: Positive


class TaskVersionData(Camel):
    """`task.release`."""

    id: Id
    version: NotNegative


class TaskActionData(Camel):
    """`task.fence` and `task.fulfill`."""

    id: Id
    version: NotNegative
    action: ActionOf


class TaskSuspendData(Camel):
    """`task.suspend`."""

    id: Id
    version: NotNegative
    actions: Annotated[list[ActionOf], Meta(min_length=1)]


class HeldTask(Camel):
    """A task that a heartbeat names."""

    id: Id
    version: NotNegative


class TaskHeartbeatData(Camel):
    """`task.heartbeat`."""

    pid: Text
    tasks: Annotated[list[HeldTask], Meta(min_length=1)]


class TaskSearchData(Camel):
    """`task.search`."""

    state: str | None = None
    limit: SearchLimit | None = None
    cursor: str | None = None


class ScheduleCreateData(Camel):
    """`schedule.create`."""

    id: Id
    cron: Text
    promise_id: Text
    promise_timeout: NotNegative
    promise_param: ValueData | None = None
    promise_tags: Tags | None = None


class ScheduleSearchData(Camel):
    """`schedule.search`."""

    tags: Tags | None = None
    limit: SearchLimit | None = None
    cursor: str | None = None


class Nothing(Camel):
    """`debug.start`, `.stop`, `.reset` and `.snap`: no field has a meaning."""


class DebugTickData(Camel):
    """`debug.tick`."""

    time: NotNegative


Decoded = TypeVar("Decoded")


def decoded(decoder: msgspec.json.Decoder[Decoded], data: Raw, place: str = "data") -> Decoded:
    """Decode the data of a request or an action. Raises ApiError (400) that names the field."""
    try:
        return decoder.decode(data)
    except UNREADABLE_JSON as error:
        problem, _, path = str(error).partition(" - at `$")
        raise refused(f"{place}{path.rstrip('`')}: {problem}") from error


def checked_id(identifier: str, limits: RequestLimits, place: str) -> str:
    """Return an id that may be one. Raises ApiError (400)."""
    if "\0" in identifier:
        raise refused(f"{place}: must not contain NUL")
    if len(identifier) * 4 > limits.id_limit_bytes:
        size = size_bytes(identifier)
        if size > limits.id_limit_bytes:
            limit = limits.id_limit_bytes
            raise refused(f"{place}: must have at most {limit} bytes in UTF-8 (got {size})")
    return identifier


def checked_value(value: ValueData | None, limits: RequestLimits, place: str) -> Value:
    """Return a param or a value. Raises ApiError (400)."""
    if value is None:
        return EMPTY_VALUE
    headers = value.headers
    if headers:
        count = limits.value_headers_limit_count
        if len(headers) > count:
            raise refused(f"{place}.headers: must have at most {count} (got {len(headers)})")
        limit = limits.value_header_limit_bytes
        _refuse_long(headers.items(), limit, f"{place}.headers")
    elif headers is None and value.data is None:
        return EMPTY_VALUE  # one for all that have none: many may be pending
    return Value(headers, value.data)


def checked_tags(
    tags: Tags | None, limits: RequestLimits, timeout_at: int, place: str
) -> Tags | None:
    """Return the tags of a promise, those with a meaning understood. Raises ApiError (400)."""
    if not tags:
        return None
    if len(tags) > limits.tags_limit_count:
        count = limits.tags_limit_count
        raise refused(f"{place}: must have at most {count} tags (got {len(tags)})")
    if (sum(map(len, tags)) + sum(map(len, tags.values()))) * 4 > limits.tag_limit_bytes:
        _refuse_long(tags.items(), limits.tag_limit_bytes, place)
    target = tags.get(TARGET_TAG)
    if target is not None:
        problem = target_problem(target)
        if problem is not None:
            raise refused(f"{place}[{TARGET_TAG!r}]: {problem}")
    delay = tags.get(DELAY_TAG)
    if delay is not None:
        _check_delay(delay, target, timeout_at, f"{place}[{DELAY_TAG!r}]")
    return tags


def _check_delay(delay: str, target: str | None, timeout_at: int, place: str) -> None:
    if not (delay.isascii() and delay.isdecimal()) or len(delay) > len(str(INTEGER_MAX)):
        raise refused(f"{place}: must be a non-negative integer, ms since 1970")
    if target is None:
        raise refused(f"{place}: goes only with the tag {TARGET_TAG}")
    if int(delay) >= timeout_at:
        raise refused(f"{place}: must be less than timeoutAt")


def _refuse_long(pairs: Iterable[tuple[str, str]], limit_bytes: int, place: str) -> None:
    for name, text in pairs:
        if (len(name) + len(text)) * 4 > limit_bytes and (
            size_bytes(name) + size_bytes(text) > limit_bytes
        ):
            raise refused(f"{place}[{name[:64]!r}]: must have at most {limit_bytes} bytes in UTF-8")


_SETTLED: Final = {state.value.lower(): state for state in COMPLETION_STATES}
_STATES: Final = {state.value.lower(): state for state in PromiseState}


def settled_state(name: str, place: str) -> PromiseState:
    """Return a state that a client may settle a promise with. Raises ApiError (400)."""
    state = _SETTLED.get(name)
    if state is None:
        raise refused(f"{place}: must be one of {', '.join(sorted(_SETTLED))} (got {name[:64]!r})")
    return state


def promise_states(name: str | None) -> tuple[PromiseState, ...]:
    """Return the states that a search is for. Raises ApiError (400)."""
    if name is None:
        return tuple(PromiseState)
    state = _STATES.get(name)
    if state is None:
        raise refused(
            f"data.state: must be one of {', '.join(sorted(_STATES))} (got {name[:64]!r})"
        )
    return (state,)
