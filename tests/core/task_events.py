"""Which commands and records are which events in the life cycle of a task."""

from troth.core import commands as c
from troth.core import records as r
from troth.core.lifecycles import TaskEvent

EVENT_OF_COMMAND = {
    c.ClaimTask: TaskEvent.CLAIM,
    c.CompleteTask: TaskEvent.COMPLETE,
    c.DropTask: TaskEvent.DROP,
}
EVENT_OF_RECORD = {
    r.TaskEnqueued: TaskEvent.SEND,
    r.TaskDelivered: TaskEvent.DELIVER,
    r.TaskClaimed: TaskEvent.CLAIM,
    r.TaskCompleted: TaskEvent.COMPLETE,
    r.TaskTimedOut: TaskEvent.TIME_OUT,
}
