"""What the API can do, the command line can: each row of the table has a command, or a reason."""

from typing import Final

import click

from troth.cli.command import LazyGroup
from troth.http.documents.table import API_ENDPOINTS

GROUPS: Final = frozenset({"Promises", "Tasks", "Schedules", "Locks", "Questions", "Bulk jobs"})
"""The groups of the table that are about what waits in the server."""

COMMANDS: Final = {
    "createPromise": "promises create",
    "readPromise": "promises get",
    "completePromise": "promises complete",
    "deletePromise": "promises delete",
    "searchPromises": "promises search",
    "claimTask": "tasks claim",
    "completeTask": "tasks complete",
    "dropTask": "tasks drop",
    "heartbeatTasks": "tasks heartbeat",
    "createSchedule": "schedules create",
    "readSchedule": "schedules get",
    "deleteSchedule": "schedules delete",
    "updateSchedule": "schedules update",
    "pauseSchedule": "schedules pause",
    "resumeSchedule": "schedules resume",
    "runSchedule": "schedules run",
    "previewSchedule": "schedules preview",
    "searchSchedules": "schedules search",
    "acquireLock": "locks acquire",
    "releaseLock": "locks release",
    "heartbeatLocks": "locks heartbeat",
    "whyPromise": "why",
    "waitingForPromise": "promises waiting",
    "treeOfPromise": "tree",
    "listTasks": "tasks list",
    "showTask": "tasks show",
    "listLocks": "locks list",
    "listTimers": "timers",
    "releaseTask": "tasks release",
    "retryTask": "tasks retry",
    "breakLock": "locks break",
    "batchPromises": "promises create",
    "startBulkJob": "bulk cancel",
    "listBulkJobs": "bulk list",
    "readBulkJob": "bulk show",
    "stopBulkJob": "bulk stop",
}
"""By the name of the row."""

WITHOUT: Final = {
    "createPromiseAndTask": "for workers: the task is claimed by who makes it",
    "createCallback": "for workers: a callback resumes their own promise",
    "createCallbackOfPromise": "as createCallback",
    "createSubscription": "for programs: somebody has to listen for the message",
    "createSubscriptionOfPromise": "as createSubscription",
    "claimTaskByLink": "a link in a message",
    "completeTaskByLink": "a link in a message",
    "dropTaskByLink": "a link in a message",
    "heartbeatTaskByLink": "a link in a message",
}


def command_of(words: str) -> click.Command | None:
    """The command that these words call."""
    found: click.Command = LazyGroup("troth")
    for word in words.split():
        if not isinstance(found, click.Group):
            return None
        context = click.Context(found)
        inner = found.get_command(context, word)
        if inner is None:
            return None
        found = inner
    return found


def test_api_rows_have_commands() -> None:
    rows = {row.name for row in API_ENDPOINTS if row.group in GROUPS}
    assert rows - set(COMMANDS) - set(WITHOUT) == set(), "neither a command nor a reason"
    assert set(COMMANDS) | set(WITHOUT) <= rows, "no such row"
    missing = {words for words in COMMANDS.values() if command_of(words) is None}
    assert missing == set(), "no such command"
