"""Every command to a server: the request it sends, and what it shows of the answer."""

import base64
import io
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.command_line import CommandLine
from tests.http.fake_api import NOW_MS, promise
from troth.cli import locks as cli_locks
from troth.cli import output as cli_output
from troth.cli import promises as cli_promises
from troth.core.limits import INTEGER_MAX

PROCESS_ID = f"troth-cli@{socket.gethostname()}"


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("duration_ms", "shown"),
    [
        (0, "0ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1540, "1.5s"),
        (59_940, "59.9s"),
        (59_999, "1m"),
        (60_000, "1m"),
        (61_999, "1m 2s"),
        (3_600_000, "1h"),
        (3_661_000, "1h 1m"),
        (90_061_000, "1d 1h"),
        (86_399_999, "1d"),
        (84_600_000, "23h 30m"),
        (86_460_000, "1d"),
        (INTEGER_MAX, "106751991167d 7h"),
    ],
)
def test_durations_are_shown_in_their_two_largest_units(duration_ms: int, shown: str) -> None:
    assert cli_output.span(duration_ms) == shown


@given(st.integers(-(2**63), INTEGER_MAX))
def test_every_time_can_be_shown(time_ms: int) -> None:
    for shown in (cli_output.moment(time_ms), cli_output.short_moment(time_ms)):
        assert shown is not None
        assert re.search(r"^never|^in |^[0-9].* ago\)?$|\(in .*\)$", shown), shown


@given(st.text())
def test_data_is_shown_whole_or_escaped(text: str) -> None:
    shown = cli_output.decoded(in_base64(text))

    assert all(character.isprintable() or character in "\n\t" for character in shown)
    if text.isprintable():
        assert shown == text


# --- promises -------------------------------------------------------------------------------------


def test_create_sends_everything_it_is_given(troth: CommandLine) -> None:
    troth.api.say(201, promise(param={"data": in_base64("hi"), "headers": {"a": "b"}}))

    shown = troth(
        *("promises", "create", "order-7", "--timeout", "1h", "--data", "hi", "--strict"),
        *(
            "--header",
            "a=b",
            "--tag",
            "team=billing=x",
            "--tag",
            "empty=",
            "--idempotency-key",
            "é",
        ),
    )

    assert troth.sent() == (
        "POST",
        "/promises",
        {
            "id": "order-7",
            "timeout": NOW_MS + 3_600_000,
            "param": {"data": "aGk=", "headers": {"a": "b"}},
            "tags": {"team": "billing=x", "empty": ""},
        },
    )
    headers = troth.api.heard[0].headers
    assert headers["idempotency-key"].encode("latin-1").decode() == "é"
    assert headers["strict"] == "true"
    assert shown == (
        "Created\n"
        "  id             order-7\n"
        "  state          PENDING\n"
        "  created        2027-01-15 07:59:00+00:00 (1m ago)\n"
        "  times out      2027-01-15 09:00:00+00:00 (in 1h)\n"
        "  param          hi\n"
        "  param headers  a=b\n"
    )


def test_create_says_when_nothing_was_created(troth: CommandLine) -> None:
    troth.api.say(200, promise(idempotencyKeyForCreate=""))

    shown = troth("promises", "create", "order-7", "--idempotency-key", "")

    assert shown.startswith("Already created with the same key\n")
    assert 'create key  "" (empty)\n' in shown
    headers = troth.api.heard[0].headers
    assert headers["idempotency-key"] == ""
    assert "strict" not in headers


@pytest.mark.parametrize(
    ("arguments", "timeout_ms"),
    [
        ([], NOW_MS + 86_400_000),
        (["--timeout", "250ms"], NOW_MS + 250),
        (["--timeout", "1500"], NOW_MS + 1500),
        (["--timeout", "1h30m"], NOW_MS + 5_400_000),
        (["--timeout", "99999999999999999d"], INTEGER_MAX),
        (["--timeout-at", "12"], 12),
        (["--timeout-at", "-1", "--timeout", "5m"], -1),
    ],
)
def test_timeouts(troth: CommandLine, arguments: list[str], timeout_ms: int) -> None:
    troth.api.say(201, promise())

    troth("promises", "create", "a", *arguments)

    assert troth.api.heard[0].body["timeout"] == timeout_ms


def test_data_comes_from_a_file_or_standard_input(
    troth: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"\x00\xff")
    stdin = io.TextIOWrapper(io.BytesIO(b"\xfe\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    for _ in range(3):
        troth.api.say(201, promise())

    troth("promises", "create", "a", "--data-file", str(file))
    troth("promises", "create", "a", "--data-file", "-")
    # What a shell passes on that is not UTF-8 is data like any other.
    troth("promises", "create", "a", "--data", os.fsdecode(b"\xff"))

    sent = [base64.b64decode(request.body["param"]["data"]) for request in troth.api.heard]
    assert sent == [b"\x00\xff", b"\xfe\n", b"\xff"]


def test_get_shows_everything(troth: CommandLine) -> None:
    troth.api.say(
        200,
        promise(
            "a/b",
            state="REJECTED",
            param={"data": in_base64("two\nlines")},
            value={"data": base64.b64encode(b"\xff\x00").decode(), "headers": {"x": "y", "z": ""}},
            tags={"team": "billing"},
            completedOn=NOW_MS - 1500,
            timeout=INTEGER_MAX,
            idempotencyKeyForComplete="k",
        ),
    )

    shown = troth("promises", "get", "a/b")

    assert troth.sent() == ("GET", "/promises/a/b", None)
    assert shown == (
        "  id             a/b\n"
        "  state          REJECTED\n"
        "  created        2027-01-15 07:59:00+00:00 (1m ago)\n"
        f"  timeout        never ({INTEGER_MAX})\n"
        "  completed      2027-01-15 07:59:58+00:00 (1.5s ago)\n"
        "  param          two\n"
        "                 lines\n"
        "  value          base64:/wA=\n"
        "  value headers  x=y\n"
        "                 z=\n"
        "  tags           team=billing\n"
        "  complete key   k\n"
    )


def test_json_is_the_answer_on_one_line(troth: CommandLine) -> None:
    troth.api.say(200, json.dumps(promise("é\u2028"), indent=1, ensure_ascii=False).encode())

    shown = troth("promises", "get", "a", "--json")

    assert shown.count("\n") == 1
    assert json.loads(shown) == promise("é\u2028")


def test_nothing_from_the_server_steers_the_terminal(troth: CommandLine) -> None:
    evil = "a\x1b]0;title\x07\r\u202e[red]"
    row = promise(evil, param={"data": in_base64(evil)}, tags={evil: evil}, state=evil)
    row["idempotencyKeyForCreate"] = evil
    escaped = "a\\x1b]0;title\\x07\\r\\u202e[red]"

    troth.api.say(200, row)
    shown = troth("promises", "get", "a")
    assert shown.count(escaped) == 6
    troth.api.say(200, {"cursor": None, "promises": [row]})
    shown += troth("promises", "search")
    call = {**row, "parent": None, "depth": 0, "function": evil, "hint": evil}
    troth.api.say(200, {"id": evil, "cut": False, "calls": [call]})
    shown += troth("tree", "a")

    assert all(character.isprintable() or character == "\n" for character in shown)
    assert shown.count(escaped) == 14


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        (["complete", "--state", "resolved"], "RESOLVED"),
        (["complete", "--state", "rejected"], "REJECTED"),
        (["complete", "--state", "canceled"], "REJECTED_CANCELED"),
        (["resolve"], "RESOLVED"),
        (["reject"], "REJECTED"),
        (["cancel"], "REJECTED_CANCELED"),
    ],
)
def test_complete(troth: CommandLine, arguments: list[str], state: str) -> None:
    troth.api.say(201, promise(state=state))
    troth.api.say(200, promise(state=state))
    options = ["a", "--data", "x", "--header", "k=v", "--idempotency-key", "i", "--strict"]

    shown = troth("promises", *arguments, *options)
    assert troth.sent() == (
        "PATCH",
        "/promises/a",
        {"state": state, "value": {"data": "eA==", "headers": {"k": "v"}}},
    )
    headers = troth.api.heard[0].headers
    assert (headers["idempotency-key"], headers["strict"]) == ("i", "true")
    assert shown.startswith("Completed\n")
    assert state in shown
    assert troth("promises", *arguments, "a").startswith("Already completed; nothing changed\n")


def test_search_shows_one_page_and_how_to_go_on(troth: CommandLine) -> None:
    rows = [
        promise("b", tags={"x": "y"}),
        promise("a" * 200, state="RESOLVED", completedOn=NOW_MS - 2000),
    ]
    troth.api.say(200, {"cursor": "c1", "promises": rows})

    shown = troth(
        *("promises", "search", "order-*", "--state", "pending", "--limit", "2"),
        *("--tag", "a.b=c d", "--tag", "e=f"),
    )

    assert troth.api.heard[0].query == [
        ("id", "order-*"),
        ("state", "pending"),
        ("tags[a.b]", "c d"),
        ("tags[e]", "f"),
        ("limit", "2"),
    ]
    header, first, second = shown.splitlines()
    assert header.split() == ["ID", "STATE", "CREATED", "TIMEOUT", "COMPLETED", "TAGS"]
    assert first.split() == ["b", "PENDING", "1m", "ago", "in", "1h", "x=y"]
    assert second.startswith("a" * 200 + "  RESOLVED")
    assert troth.errors == "2 found, there may be more: --all, or --cursor c1\n"


def test_search_goes_on_with_a_cursor_alone(troth: CommandLine) -> None:
    troth.api.say(200, {"cursor": None, "promises": []})

    troth("promises", "search", "x", "--cursor", "c1")

    assert troth.api.heard[0].query == [("cursor", "c1")]
    assert troth.errors == "0 found\n"


def test_search_reads_all_pages(troth: CommandLine) -> None:
    for name, cursor in (("a", "c1"), ("b", "c2"), ("c", None)):
        troth.api.say(200, {"cursor": cursor, "promises": [promise(name)]})

    shown = troth("promises", "search", "--all", "--json", "--limit", "1")

    assert [request.query for request in troth.api.heard] == [
        [("id", "*"), ("limit", "1")],
        [("cursor", "c1")],
        [("cursor", "c2")],
    ]
    found = json.loads(shown)
    assert (found["cursor"], [row["id"] for row in found["promises"]]) == (None, ["a", "b", "c"])
    assert shown.count("\n") == 1
    assert troth.errors == ""


@pytest.mark.parametrize(
    ("states", "arguments", "status", "pauses_ms"),
    [
        (["RESOLVED"], [], 0, []),
        (["PENDING", "PENDING", "RESOLVED"], [], 0, [100, 200]),
        (["PENDING", "REJECTED_TIMEDOUT"], [], 4, [100]),
        (["PENDING"] * 7 + ["RESOLVED"], [], 0, [100, 200, 400, 800, 1600, 2000, 2000]),
        (["PENDING"] * 4, ["--for", "500ms"], 5, [100, 200, 200]),
        (["PENDING"], ["--for", "0"], 5, []),
    ],
)
def test_wait(
    troth: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    states: list[str],
    arguments: list[str],
    status: int,
    pauses_ms: list[int],
) -> None:
    paused: list[int] = []
    monkeypatch.setattr(cli_promises, "_pause", paused.append)
    for state in states:
        troth.api.say(200, promise(state=state))

    shown = troth("promises", "wait", "a", *arguments, status=status)

    assert re.search(rf"^  state +{states[-1]}$", shown, re.MULTILINE)
    assert paused == pauses_ms
    assert len(troth.api.heard) == len(states)


# --- tasks ----------------------------------------------------------------------------------------


def test_claim(troth: CommandLine) -> None:
    troth.api.say(
        201,
        {
            "type": "resume",
            "promises": {
                "root": {"id": "order-7", "href": "…", "data": promise()},
                "leaf": {"id": "order-7.1", "href": "…", "data": None},
            },
        },
    )

    shown = troth("tasks", "claim", "__invoke:order-7", "3", "--ttl", "5m")

    assert troth.sent() == (
        "POST",
        "/tasks/claim",
        {"id": "__invoke:order-7", "counter": 3, "processId": PROCESS_ID, "ttl": 300_000},
    )
    assert shown.startswith(
        f"Claimed by {PROCESS_ID}\n  type  resume\nThe promise to continue\n  id         order-7\n"
    )
    assert shown.endswith(
        "The promise it waited for\n  id     order-7.1\n  state  does not exist\n"
    )


def test_complete_a_task(troth: CommandLine) -> None:
    task = {"id": "t", "counter": 3, "timeout": NOW_MS, "rootPromiseId": "r", "processId": "p"}
    troth.api.say(201, {**task, "createdOn": NOW_MS, "completedOn": NOW_MS})
    troth.api.say(200, {"id": "t", "counter": 3, "timeout": NOW_MS})

    shown = troth("tasks", "complete", "t", "3")

    assert troth.sent() == ("POST", "/tasks/complete", {"id": "t", "counter": 3})
    assert shown.startswith("Completed\n  id         t\n  counter    3\n  promise    r\n")
    assert troth("tasks", "complete", "t", "3").startswith("Already completed; nothing changed\n")


def test_drop_a_task(troth: CommandLine) -> None:
    troth.api.say(201)
    troth.api.say(200)
    troth.api.say(201)

    assert troth("tasks", "drop", "t", "1") == "Given back\n"
    assert troth.sent() == ("POST", "/tasks/drop", {"id": "t", "counter": 1})
    assert troth("tasks", "drop", "t", "1") == "It was not claimed; nothing changed\n"
    assert troth("tasks", "drop", "t", "1", "--json") == ""


def test_heartbeat_of_tasks(troth: CommandLine) -> None:
    troth.api.say(200, {"tasksAffected": 2})
    troth.api.say(200, {"tasksAffected": 0})

    assert troth("tasks", "heartbeat", "--process-id", "p") == "Tasks renewed for p: 2\n"
    assert troth.sent() == ("POST", "/tasks/heartbeat", {"processId": "p"})
    assert troth("tasks", "heartbeat", "--json") == '{"tasksAffected":0}\n'
    assert troth.sent()[2] == {"processId": PROCESS_ID}


# --- schedules ------------------------------------------------------------------------------------

SCHEDULE: dict[str, Any] = {
    "id": "nightly",
    "description": "the report",
    "cron": "0 3 * * *",
    "tags": {"team": "billing"},
    "promiseId": "report-{{.timestamp}}",
    "promiseTimeout": 86_400_000,
    "promiseParam": {"data": in_base64("hi")},
    "promiseTags": {"resonate:invoke": "default"},
    "lastRunTime": NOW_MS - 3_600_000,
    "nextRunTime": NOW_MS + 90_000,
    "idempotencyKey": "k",
    "createdOn": NOW_MS,
}


def test_create_a_schedule(troth: CommandLine) -> None:
    troth.api.say(201, SCHEDULE)

    shown = troth(
        *("schedules", "create", "nightly", "--cron", "0 3 * * *", "--description", "the report"),
        *("--promise-id", "report-{{.timestamp}}", "--promise-timeout", "1d", "--data", "hi"),
        *("--promise-tag", "resonate:invoke=default", "--tag", "team=billing"),
        *("--idempotency-key", "k"),
    )

    sent_keys = (
        *("id", "description", "cron", "tags"),
        *("promiseId", "promiseTimeout", "promiseParam", "promiseTags"),
    )
    assert troth.sent() == ("POST", "/schedules", {key: SCHEDULE[key] for key in sent_keys})
    assert troth.api.heard[0].headers["idempotency-key"] == "k"
    assert shown == (
        "Created\n"
        "  id               nightly\n"
        "  description      the report\n"
        "  cron             0 3 * * *\n"
        "  last run         2027-01-15 07:00:00+00:00 (1h ago)\n"
        "  next run         2027-01-15 08:01:30+00:00 (in 1m 30s)\n"
        "  created          2027-01-15 08:00:00+00:00 (0ms ago)\n"
        "  tags             team=billing\n"
        "  create key       k\n"
        "  promise id       report-{{.timestamp}}\n"
        "  promise timeout  1d\n"
        "  promise param    hi\n"
        "  promise tags     resonate:invoke=default\n"
    )


def test_get_and_delete_a_schedule(troth: CommandLine) -> None:
    # How the API says that a schedule has no next time: the start of the year 1.
    troth.api.say(200, {**SCHEDULE, "nextRunTime": -62135596800000})
    troth.api.say(204)

    assert "  next run         never (-62135596800000)\n" in troth("schedules", "get", "a/b")
    assert troth.sent() == ("GET", "/schedules/a/b", None)
    assert troth("schedules", "delete", "a/b") == "Deleted a/b\n"
    assert troth.sent() == ("DELETE", "/schedules/a/b", None)


def test_search_schedules(troth: CommandLine) -> None:
    # The reference server leaves out of search results what is not in this one.
    reduced = {"id": "x", "cron": "* * * * *", "tags": {}, "promiseId": "", "nextRunTime": NOW_MS}
    troth.api.say(200, {"cursor": None, "schedules": [SCHEDULE, reduced]})

    shown = troth("schedules", "search", "n*", "--tag", "team=billing")

    assert troth.api.heard[0].query == [("id", "n*"), ("tags[team]", "billing"), ("limit", "100")]
    _, first, second = shown.splitlines()
    assert "in 1m 30s" in first
    assert "the report" in first
    assert second.split() == ["x", "*", "*", "*", "*", "*", "0ms", "ago"]


# --- locks ----------------------------------------------------------------------------------------


def test_acquire_a_lock(troth: CommandLine) -> None:
    sent = {"resourceId": "r", "executionId": "e", "processId": "p", "ttl": 60_000}
    troth.api.say(201, {**sent, "expiresAt": NOW_MS + 60_000}, **{"Fencing-Token": "41"})

    shown = troth("locks", "acquire", "r", "e", "--process-id", "p")

    assert troth.sent() == ("POST", "/locks/acquire", sent)
    assert shown == (
        "Acquired\n"
        "  resource   r\n"
        "  execution  e\n"
        "  process    p\n"
        "  ttl        1m\n"
        "  ends       2027-01-15 08:01:00+00:00 (in 1m)\n"
        "  token      41\n"
    )


def test_a_lock_is_waited_for(troth: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("troth.cli.locks.time.sleep", slept.append)
    sent = {"resourceId": "r", "executionId": "e", "processId": "p", "ttl": 60_000}
    for _ in range(3):
        troth.api.refuse(40304, "The lock is already acquired", "held by execution 'f'")
    troth.api.say(201, {**sent, "expiresAt": NOW_MS + 60_000})

    troth("locks", "acquire", "r", "e", "--process-id", "p", "--wait", "1h")

    assert len(troth.api.heard) == 4
    assert len(slept) == 3
    assert max(slept) <= cli_locks.RETRY_LIMIT_S


def test_a_lock_is_not_waited_for_unless_asked_for(troth: CommandLine) -> None:
    troth.api.refuse(40304, "The lock is already acquired", "held by execution 'f'")

    troth("locks", "acquire", "r", "e", status=1)

    assert "held by execution 'f'" in troth.errors


def test_release_and_renew_locks(troth: CommandLine) -> None:
    troth.api.say(204)
    troth.api.say(200, {"locksAffected": 1})

    assert troth("locks", "release", "r", "e") == "Released r\n"
    assert troth.sent() == ("POST", "/locks/release", {"resourceId": "r", "executionId": "e"})
    assert troth("locks", "heartbeat") == f"Locks renewed for {PROCESS_ID}: 1\n"
    assert troth.sent() == ("POST", "/locks/heartbeat", {"processId": PROCESS_ID})
