"""`troth why`, `timers`, lists of tasks, locks, who waits: what they ask, what they show."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.http.fake_api import NOW_MS, FakeApi, promise
from troth.cli import command as cli
from troth.cli import output as cli_output
from troth.cli import promises as cli_promises
from troth.cli.questions import timers as cli_timers

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


@dataclass
class CommandLine:
    """`troth` against a server that says what it was told to."""

    api: FakeApi
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[str, str]:
        """Run it; what it printed, and what it noted."""
        assert cli.run([*arguments, "--server", self.api.url]) == 0
        captured = self.capsys.readouterr()
        return captured.out, captured.err


@pytest.fixture
def troth(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
    for variable in list(os.environ):
        if variable.startswith("TROTH_"):
            monkeypatch.delenv(variable)
    for module in (cli_output, cli_timers):
        monkeypatch.setattr(module, "now_ms", lambda: NOW_MS)
    with monkeypatch.context() as patched, FakeApi() as api:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield CommandLine(api, capsys)
    time.tzset()


def asked(troth: CommandLine) -> list[tuple[str, list[tuple[str, str]]]]:
    return [(request.path, request.query) for request in troth.api.heard]


def test_why_shows_the_sentence_and_what_is_behind_it(troth: CommandLine) -> None:
    troth.api.say(200, WHY)
    shown, _ = troth("why", "o")
    assert asked(troth) == [("/why/o", [])]
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
    shown, noted = troth("promises", "get", "o")
    assert "PENDING" in shown
    assert noted == "No worker listens to the group `gpu`.\n"
    troth.api.say(200, promise("o"))
    troth.api.say(200, {**WHY, "cause": {**CAUSE, "reason": "held"}})
    assert troth("promises", "get", "o")[1] == ""
    troth.api.say(200, promise("o"))
    troth.api.refuse(40410, "There is nothing at this path")
    assert troth("promises", "get", "o")[1] == "", "a server of another kind"


def test_get_asks_nothing_else_for_what_is_over_or_as_json(troth: CommandLine) -> None:
    troth.api.say(200, promise("o", state="RESOLVED", completedOn=NOW_MS))
    troth("promises", "get", "o")
    troth.api.say(200, promise("o"))
    troth("promises", "get", "o", "--json")
    assert asked(troth) == [("/promises/o", []), ("/promises/o", [])]


def test_tasks_are_listed_by_what_is_asked_for(troth: CommandLine) -> None:
    troth.api.say(200, {"cursor": "c", "tasks": [TASK]})
    shown, noted = troth(
        *("tasks", "list", "--kind", "rest", "--states", "stalled", "--receiver", "r"),
        *("--process", "p", "--root", "o*", "--newest", "--limit", "7"),
    )
    assert asked(troth) == [
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
    assert "--cursor c" in noted


def test_all_pages_of_a_list_are_read(troth: CommandLine) -> None:
    troth.api.say(200, {"cursor": "c", "tasks": [TASK]})
    troth.api.say(200, {"cursor": None, "tasks": [TASK]})
    shown, _ = troth("tasks", "list", "--all", "--json")
    assert json.loads(shown) == {"cursor": None, "tasks": [TASK, TASK]}
    assert asked(troth)[1] == ("/tasks", [("cursor", "c")])


def test_a_task_is_shown(troth: CommandLine) -> None:
    troth.api.say(200, TASK)
    shown, _ = troth("tasks", "show", "__invoke:o")
    assert asked(troth) == [("/tasks/show/__invoke:o", [])]
    assert "  kind        rest, invoke\n" in shown
    assert "  last error  connection refused\n" in shown


def test_locks_are_listed(troth: CommandLine) -> None:
    lock = {"resourceId": "r", "executionId": "e", "processId": "p", "expiresAt": NOW_MS + 1_000}
    troth.api.say(200, {"cursor": None, "locks": [lock]})
    shown, noted = troth("locks", "list", "r*", "--process", "p")
    assert asked(troth) == [("/locks", [("id", "r*"), ("process", "p"), ("limit", "100")])]
    assert shown.splitlines()[1].split() == ["r", "e", "p", "in", "1s"]
    assert noted == "1 found\n"


def test_timers_are_listed(troth: CommandLine) -> None:
    due = {"at": NOW_MS + 1_000, "what": "timeout", "id": "o", "promiseId": "o"}
    troth.api.say(200, {"cursor": None, "timers": [due]})
    shown, _ = troth("timers", "--within", "1h")
    until = ("until", str(NOW_MS + 3_600_000))
    assert asked(troth) == [("/timers", [until, ("limit", "100")])]
    assert shown.splitlines()[1].split()[-3:] == ["timeout", "o", "o"]


def test_who_waits_is_listed(troth: CommandLine) -> None:
    waiter: dict[str, Any] = {"kind": "callback", "id": "c", "promiseId": "r", "receiver": "p"}
    troth.api.say(200, {"id": "o", "waiting": [waiter]})
    shown, noted = troth("promises", "waiting", "o")
    assert asked(troth) == [("/waiting/o", [])]
    assert shown.splitlines()[1].split() == ["callback", "c", "r", "p"]
    assert noted == "1 found\n"


def test_a_search_may_be_for_exact_states_and_times(
    troth: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_promises, "now_ms", lambda: NOW_MS)
    troth.api.say(200, {"cursor": None, "promises": []})
    troth("promises", "search", "--states", "rejected,timedout", "--since", "1h", "--oldest")
    query = [("id", "*"), ("states", "rejected,timedout")]
    query += [("createdFrom", str(NOW_MS - 3_600_000)), ("order", "oldest"), ("limit", "100")]
    assert asked(troth) == [("/promises", query)]
