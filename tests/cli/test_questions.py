"""`troth why`, `timers`, lists of tasks, locks, who waits: what they ask, what they show."""

import json
from typing import Any

from tests.cli.command_line import CommandLine
from tests.http.fake_api import NOW_MS, promise

TASK = {
    "id": "__invoke:o",
    "kind": "rest",
    "type": "invoke",
    "state": "stalled",
    "promiseId": "o",
    "receiver": "poll://any@gpu",
    "counter": 2,
    "createdOn": NOW_MS - 60_000,
    "timeout": NOW_MS + 60_000,
    "sentCount": 1,
    "failedCount": 3,
    "lastError": "connection refused",
    "nextTry": NOW_MS + 5_000,
}
CAUSE = {
    "promiseId": "o",
    "reason": "no-listener",
    "since": NOW_MS - 60_000,
    "task": TASK,
    "group": "gpu",
    "listeners": 0,
    "connectedGroups": [],
}
WHY = {
    "id": "o",
    "state": "PENDING",
    "sentence": "No worker listens to the group `gpu`.",
    "path": [],
    "cause": CAUSE,
    "awaits": [],
    "awaitsCount": 0,
    "next": {"at": NOW_MS + 60_000, "what": "timeout", "id": "o", "promiseId": "o"},
}


def test_why_shows_the_sentence_and_what_is_behind_it(troth: CommandLine) -> None:
    troth.api.say(200, WHY)
    shown = troth("why", "o")
    assert troth.asked == [("/why/o", [])]
    assert shown == (
        "No worker listens to the group `gpu`.\n"
        "  state       PENDING\n"
        "  reason      no-listener\n"
        "  since       2027-01-15 07:59:00+00:00 (1m ago)\n"
        "  receiver    poll://any@gpu\n"
        "  listeners   0\n"
        "  task        __invoke:o, stalled\n"
        "  counter     2\n"
        "  sent        1 times since the server started\n"
        "  failed      3 times in a row\n"
        "  last error  connection refused\n"
        "  next try    2027-01-15 08:00:05+00:00 (in 5s)\n"
        "  next        timeout of o: 2027-01-15 08:01:00+00:00 (in 1m)\n"
    )


def test_get_hints_at_what_keeps_a_promise_pending(troth: CommandLine) -> None:
    troth.api.say(200, promise("o"))
    troth.api.say(200, WHY)
    shown = troth("promises", "get", "o")
    assert "PENDING" in shown
    assert troth.errors == "No worker listens to the group `gpu`.\n"
    troth.api.say(200, promise("o"))
    troth.api.say(200, {**WHY, "cause": {**CAUSE, "reason": "held"}})
    troth("promises", "get", "o")
    assert troth.errors == ""
    troth.api.say(200, promise("o"))
    troth.api.refuse(40410, "There is nothing at this path")
    troth("promises", "get", "o")
    assert troth.errors == "", "a server of another kind"


def test_get_asks_nothing_else_for_what_is_over_or_as_json(troth: CommandLine) -> None:
    troth.api.say(200, promise("o", state="RESOLVED", completedOn=NOW_MS))
    troth("promises", "get", "o")
    troth.api.say(200, promise("o"))
    troth("promises", "get", "o", "--json")
    assert troth.asked == [("/promises/o", []), ("/promises/o", [])]


def test_tasks_are_listed_by_what_is_asked_for(troth: CommandLine) -> None:
    troth.api.say(200, {"cursor": "c", "tasks": [TASK]})
    shown = troth(
        *("tasks", "list", "--kind", "rest", "--states", "stalled", "--receiver", "r"),
        *("--process", "p", "--root", "o*", "--newest", "--limit", "7"),
    )
    assert troth.asked == [
        (
            "/tasks",
            [
                ("kind", "rest"),
                ("states", "stalled"),
                ("receiver", "r"),
                ("process", "p"),
                ("root", "o*"),
                ("order", "newest"),
                ("limit", "7"),
            ],
        )
    ]
    assert shown.splitlines()[1].split() == [
        *("__invoke:o", "rest", "stalled", "poll://any@gpu", "2", "1m", "ago"),
        *("connection", "refused"),
    ]
    assert "--cursor c" in troth.errors


def test_all_pages_of_a_list_are_read(troth: CommandLine) -> None:
    troth.api.say(200, {"cursor": "c", "tasks": [TASK]})
    troth.api.say(200, {"cursor": None, "tasks": [TASK]})
    shown = troth("tasks", "list", "--all", "--json")
    assert json.loads(shown) == {"cursor": None, "tasks": [TASK, TASK]}
    assert troth.asked[1] == ("/tasks", [("cursor", "c")])


def test_a_task_is_shown(troth: CommandLine) -> None:
    troth.api.say(200, TASK)
    shown = troth("tasks", "show", "__invoke:o")
    assert troth.asked == [("/tasks/show/__invoke:o", [])]
    assert "  kind        rest, invoke\n" in shown
    assert "  last error  connection refused\n" in shown


def test_locks_are_listed(troth: CommandLine) -> None:
    lock = {"resourceId": "r", "executionId": "e", "processId": "p", "expiresAt": NOW_MS + 1_000}
    troth.api.say(200, {"cursor": None, "locks": [lock]})
    shown = troth("locks", "list", "r*", "--process", "p")
    assert troth.asked == [("/locks", [("id", "r*"), ("process", "p"), ("limit", "100")])]
    assert shown.splitlines()[1].split() == ["r", "e", "p", "in", "1s"]
    assert troth.errors == "1 found\n"


def test_timers_are_listed(troth: CommandLine) -> None:
    due = {"at": NOW_MS + 1_000, "what": "timeout", "id": "o", "promiseId": "o"}
    troth.api.say(200, {"cursor": None, "timers": [due]})
    shown = troth("timers", "--within", "1h")
    until = ("until", str(NOW_MS + 3_600_000))
    assert troth.asked == [("/timers", [until, ("limit", "100")])]
    assert shown.splitlines()[1].split()[-3:] == ["timeout", "o", "o"]


def test_who_waits_is_listed(troth: CommandLine) -> None:
    waiter: dict[str, Any] = {"kind": "callback", "id": "c", "promiseId": "r", "receiver": "p"}
    troth.api.say(200, {"id": "o", "waiting": [waiter]})
    shown = troth("promises", "waiting", "o")
    assert troth.asked == [("/waiting/o", [])]
    assert shown.splitlines()[1].split() == ["callback", "c", "r", "p"]
    assert troth.errors == "1 found\n"


def test_a_search_may_be_for_exact_states_and_times(troth: CommandLine) -> None:
    troth.api.say(200, {"cursor": None, "promises": []})
    troth("promises", "search", "--states", "rejected,timedout", "--since", "1h", "--oldest")
    query = [("id", "*"), ("states", "rejected,timedout")]
    query += [("createdFrom", str(NOW_MS - 3_600_000)), ("order", "oldest"), ("limit", "100")]
    assert troth.asked == [("/promises", query)]
