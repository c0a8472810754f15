"""One record of the log as an operator sees it: its type, time, ids and fields.

The log itself takes bodies for opaque bytes; only the administration tool looks into them. A body
that is not a record raises nothing here: `read_record` returns None, and the caller decides.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from troth.core import records
from troth.core import workflow_records as workflows
from troth.core.catalog import Entry
from troth.core.grammar import task_ids
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.model import Callback, TaskKind, Value

DATA_SHOWN_CHARACTERS: Final = 60
"""So much of a value's data is kept when values are shortened."""


def read_record(body: bytes) -> records.Record | None:
    """Decode a body; None if this version of Troth knows no such record."""
    try:
        return records.decode(body)
    except UNREADABLE_JSON:
        return None


def record_type(record: records.Record) -> str:
    """Return the tag a record is written with, such as `promise-created/1`."""
    tag = record.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def record_time_ms(record: records.Record) -> int | None:
    """Return when a record says it happened, in ms since 1970; None for types that do not say.

    Where a record has several times it is the one at which the server acted: a promise that timed
    out during a downtime was completed, for its reader, at its deadline, and by the server later.
    """
    match record:
        case records.CallbackCreated(callback=callback):
            return callback.created_on
        case records.ScheduleCreated(schedule=schedule):
            return schedule.created_on
        case records.PromiseCreated(created_on=created_on):
            return created_on
        case workflows.WorkflowCreated(created_on=created_on):
            return created_on
    time_ms: int | None = getattr(record, "at", None)
    assert time_ms is None or isinstance(time_ms, int)
    return time_ms


def record_ids(record: records.Record) -> frozenset[str]:
    """Return the ids of all promises, tasks, schedules, locks and entries that a record is about.

    A task's record is about the promise it belongs to as well, and about the one it resumes for.
    """
    match record:
        case records.CallbackCreated(callback=callback):
            return _callback_ids(callback)
        case records.ScheduleCreated(schedule=schedule):
            return frozenset({schedule.id})
        case records.ScheduleFired(id=id, promise=promise):
            return frozenset({id, promise.id})
        case records.EntryWritten(entry=entry):
            return frozenset({entry.id})
        case records.LockAcquired(lock=lock):
            return frozenset({lock.resource_id})
        case records.LockReleased(resource_id=resource_id):
            return frozenset({resource_id})
        case records.MessageReceived(message=records.ResumeMessage(callback=callback)):
            return _callback_ids(callback)
        case records.MessageReceived(message=records.PromiseMessage(id=id)):
            return frozenset({id})
        case records.PromiseCreated(id=id, task=seed):
            return frozenset({id} if seed is None else {id, task_ids.invoke_id(id)})
        case records.PromiseImported(promise=promise, task=seed):
            named = {promise.id} if seed is None else {promise.id, task_ids.invoke_id(promise.id)}
            return frozenset(named)
        case records.PromisesDeleted(ids=ids, task_ids=task_ids_deleted):
            return frozenset({*ids, *task_ids_deleted})
        case records.MessageReceived(message=workflows.WorkflowMessage(id=id)):
            return frozenset({id})
        case workflows.WorkflowsRenewed(ids=ids):
            return frozenset(ids)
        case workflows.WorkflowSuspended(id=id, awaited=awaited_ids):
            return frozenset({id, *awaited_ids})
        case workflows.WorkflowWoken(id=awaiter, awaited=awaited):
            return frozenset({awaiter, awaited})
        case workflows.AwaitRegistered(awaited=awaited, awaiter=awaiter):
            return frozenset({awaited, awaiter})
        case records.MessageReceived(
            message=workflows.AwaitMessage(awaited=awaited, awaiter=awaiter)
            | workflows.AwaitDroppedMessage(awaited=awaited, awaiter=awaiter)
            | workflows.WakeMessage(awaited=awaited, awaiter=awaiter)
        ):
            return frozenset({awaited, awaiter})
        case (
            workflows.WorkflowCreated(id=id)
            | workflows.WorkflowImported(id=id)
            | workflows.WorkflowAcquired(id=id)
            | workflows.WorkflowReleased(id=id)
            | workflows.WorkflowResumesCleared(id=id)
            | workflows.WorkflowHalted(id=id)
            | workflows.WorkflowContinued(id=id)
            | workflows.ListenerRegistered(id=id)
            | workflows.ListenerTold(id=id)
        ):
            return frozenset({id})
        case records.CompletionContinued():
            named = {record.id, *record.awaiters}
            return frozenset(named).union(*map(_task_ids, record.tasks + record.callbacks))
        case (
            records.PromiseCompleted(id=id)
            | records.CompletionBegun(id=id)
            | records.ScheduleDeleted(id=id)
            | records.ScheduleSkipped(id=id)
        ):
            return frozenset({id})
        case records.ScheduleChanged(schedule=schedule):
            return frozenset({schedule.id})
    task_id: str | None = getattr(record, "id", None)
    return frozenset() if task_id is None else _task_ids(task_id)


def _task_ids(task_id: str) -> frozenset[str]:
    """Return a task's id and those of its promises."""
    name = task_ids.parse(task_id)
    if name is None:
        return frozenset({task_id})
    if name.kind is TaskKind.RESUME:
        return frozenset({task_id, name.root, name.leaf})
    return frozenset({task_id, name.root})


def _callback_ids(callback: Callback) -> frozenset[str]:
    return frozenset({callback.id, callback.promise_id, callback.root_id})


def record_fields(record: records.Record, *, whole_values: bool = True) -> dict[str, Any]:
    """Return a record's fields by name, as JSON has them; without those that are None.

    Unless `whole_values`, the data of a promise's param or value is cut to `DATA_SHOWN_CHARACTERS`
    and `data_characters` next to it says how long it was.
    """
    fields = _plain(record, whole_values)
    assert isinstance(fields, dict)
    return fields


def _plain(content: Any, whole_values: bool) -> Any:
    if isinstance(content, msgspec.Struct):
        named = {
            name: _plain(part, whole_values)
            for name in content.__struct_fields__
            if (part := getattr(content, name)) is not None
        }
        if isinstance(content, Entry):
            return {"type": content.__struct_config__.tag, **named}
        if isinstance(content, Value) and not whole_values:
            return _shortened(named)
        return named
    if isinstance(content, Mapping):
        return {name: _plain(part, whole_values) for name, part in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(part, whole_values) for part in content]
    return content


def _shortened(value: dict[str, Any]) -> dict[str, Any]:
    data = value.get("data")
    if data is None or len(data) <= DATA_SHOWN_CHARACTERS:
        return value
    return {**value, "data": data[:DATA_SHOWN_CHARACTERS], "data_characters": len(data)}
