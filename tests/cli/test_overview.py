"""`troth whoami`, `settings` and the like: what they ask, and what they show."""

import os
import pty
import termios
from typing import Any

import pytest

from tests.cli.command_line import CommandLine
from tests.http.fake_api import NOW_MS
from troth.cli.overview import events as cli_events
from troth.cli.overview import top as cli_top

SERVER = {
    "version": "0.1.0",
    "isOpen": False,
    "inMemory": True,
    "startedOn": NOW_MS - 90_000,
    "now": NOW_MS,
}
WHOAMI: dict[str, Any] = {
    "kind": "token",
    "name": "billing",
    "account": "a1",
    "token": "t1",
    "scopes": ["promises:read"],
    "idPrefix": "b/",
    "expiresOn": None,
    "server": SERVER,
}


def test_events_are_lines() -> None:
    told = [
        b'event: counters\ndata: {"at":1,"counts":{"promises":{"pending":2,"resolved":0}},'
        b'"series":{"promises.created":3.4}}\n\n: keep-alive\n\nevent: skip',
        b'ped\ndata: {"counters":2}\n\nevent: changed\ndata: {"at":1,"ids":["a","b\\u001b"]}\n\n',
        b'event: queues\ndata: {"at":1,"total":9,"queues":[{"receiver":"poll://g","waiting":1,'
        b'"inFlight":2,"stalled":3}]}\n\n',
        b'event: failures\ndata: {"at":1,"failures":[]}\n\nevent: bulk\ndata: {"at":1,"jobs":['
        b'{"id":"7","action":"cancel","state":"running","done":3,"total":null}]}\n\nevent: cut',
    ]

    lines = [cli_events._line(name, content)[21:] for name, content in cli_events.events_in(told)]

    assert lines == [
        "counters  pending 2  created/s 3",
        "skipped   2 of counters",
        "changed   a  b\\x1b",
        "queues    9 receivers: poll://g 6",
        "failures  none",
        "bulk      7 cancel running: 3 of ?",
    ]


def test_whoami_shows_the_token_and_the_server(troth: CommandLine) -> None:
    troth.api.say(200, WHOAMI)

    shown = troth("whoami")

    assert troth.last == "GET /whoami"
    assert shown == (
        "token billing\n"
        "  account   a1\n"
        "  token     t1\n"
        "  scopes    promises:read\n"
        "  only ids  b/…\n"
        "  expires   never\n"
        f"  server    {troth.api.url}, Troth 0.1.0\n"
        "  access    closed\n"
        "  data      memory only, lost when it stops\n"
        "  up for    1m 30s\n"
    )


def test_whoami_without_credentials(troth: CommandLine) -> None:
    nothing = {"kind": "anonymous", "name": "", "account": None, "token": None, "idPrefix": ""}
    troth.api.say(200, {**WHOAMI, **nothing, "scopes": [], "server": {**SERVER, "isOpen": True}})

    shown = troth("whoami")

    assert shown.startswith("no credentials\n  scopes  none\n  server")
    assert "open: the promise API needs no credentials" in shown


def test_settings_show_what_differs_unless_all_are_wanted(troth: CommandLine) -> None:
    rows = [
        {"name": "listen", "value": "a", "default": "a", "source": "default"},
        {"name": "shards", "value": "4", "default": "16", "source": "option --shards"},
    ]
    for _ in range(2):
        troth.api.say(200, {"settings": rows})

    shown = troth("settings")
    assert troth.last == "GET /settings"
    assert shown == ("SETTING  VALUE  DEFAULT  FROM\nshards   4      16       option --shards\n")
    assert "1 more have their defaults" in troth.errors
    assert "listen" in troth("settings", "--all")


WORKER = {
    "group": "g",
    "id": "w1",
    "protocol": "rest",
    "address": "10.0.0.1",
    "since": NOW_MS - 60_000,
    "waiting": 0,
    "delivered": 3,
    "leases": 1,
}
NODE = {**WORKER, "id": "n1", "since": None, "leases": 0, "slots": 2}


def test_workers_are_shown_over_all_pages(troth: CommandLine) -> None:
    troth.api.say(200, {"cursor": "c", "workers": [WORKER], "nodes": [NODE]})
    troth.api.say(200, {"cursor": None, "workers": [{**WORKER, "id": "w2"}], "nodes": []})

    shown = troth("workers", "--all")

    assert troth.last == "GET /workers?cursor=c"
    assert shown == (
        "GROUP   ID  PROTOCOL  ADDRESS   SINCE   WAITING  DELIVERED  LEASES\n"
        "g       w1  rest      10.0.0.1  1m ago  0        3          1\n"
        "g       w2  rest      10.0.0.1  1m ago  0        3          1\n"
        "(node)  n1  node      10.0.0.1  away    0        3          0 of 2\n"
    )
    troth.api.say(200, {"cursor": "c", "workers": [WORKER], "nodes": []})
    troth("workers", "--limit", "1")
    assert troth.last == "GET /workers?limit=1"
    assert "--cursor c" in troth.errors


def test_queues_are_shown(troth: CommandLine) -> None:
    queue = {
        "receiver": "http://r",
        "workers": 0,
        "waiting": 1,
        "inFlight": 0,
        "stalled": 4,
        "oldestOn": NOW_MS - 60_000,
        "rateIn": None,
        "rateOut": 0.25,
        "health": "failing",
        "failingSince": NOW_MS - 30_000,
        "lastError": "refused",
        "nextTry": NOW_MS + 5_000,
    }
    troth.api.say(200, {"queues": [queue], "total": 7, "complete": True})

    shown = troth("queues", "--limit", "1").splitlines()

    assert troth.last == "GET /queues?limit=1"
    assert " ".join(shown[1].split()) == (
        "http://r failing, 30s ago 0 1 0 4 1m ago 0.2 refused in 5s"
    )
    assert "1 of 7" in troth.errors


def test_failures_are_shown(troth: CommandLine) -> None:
    failure = {"number": 9, "at": NOW_MS - 1_000, "kind": "lease", "id": "t", "reason": "ran out"}
    troth.api.say(200, {"before": 9, "failures": [{**failure, "about": "w1"}]})

    shown = troth("failures", "--kind", "lease", "--kind", "login", "--limit", "1")

    assert troth.last == "GET /failures?limit=1&kind=lease,login"
    assert shown.splitlines()[1].split() == ["1s", "ago", "lease", "t", "ran", "out", "w1"]
    assert "--before 9" in troth.errors


STATISTICS = {
    "now": NOW_MS,
    "startedOn": NOW_MS - 90_000,
    "counts": {"promises": {"pending": 3, "resolved": 0}, "tasks": {"claimed": 0}},
    "series": [
        {"name": "promises.pending", "unit": "promises", "values": [None, 0.0, 1.5, 3.0]},
        {"name": "process.memory", "unit": "bytes", "values": [1048576.0]},
    ],
}


def test_top_prints_one_picture_where_there_is_no_terminal(troth: CommandLine) -> None:
    troth.api.say(200, STATISTICS)
    troth.api.say(200, {"queues": [], "total": 0, "complete": True})
    failure = {"number": 9, "at": NOW_MS - 1_000, "kind": "lease", "id": "t", "reason": "ran out"}
    troth.api.say(200, {"before": None, "failures": [{**failure, "about": "w1"}]})

    lines = troth("top").splitlines()

    assert troth.last == "GET /failures?limit=5"
    assert lines[0] == f"Troth at {troth.api.url}, up for 1m 30s"
    assert lines[1].split() == ["promises", "pending", "3"]
    assert lines[2].split() == ["tasks", "none"]
    assert "  pending                      3   ▁▅█" in lines
    assert any(line.split() == ["memory", "MiB", "1", "█"] for line in lines)
    assert lines[-1].split() == ["1s", "ago", "lease", "t:", "ran", "out"]


def test_top_does_without_what_is_not_allowed(troth: CommandLine) -> None:
    troth.api.say(200, STATISTICS)
    troth.api.say(200, {"queues": [], "total": 0, "complete": True})
    troth.api.refuse(40301, "no")

    assert "Latest failures" not in troth("top", "--once")


def test_top_ends_with_q(troth: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether on a terminal of its own a key is taken without Enter, and the terminal restored."""
    master, slave = pty.openpty()
    with os.fdopen(master, "wb", buffering=0) as keys, os.fdopen(slave) as terminal:
        before = termios.tcgetattr(terminal)
        monkeypatch.setattr("sys.stdin", terminal)
        with cli_top._single_keys():
            keys.write(b"x")
            assert not cli_top._is_ended(0.05)
            keys.write(b"q")
            assert cli_top._is_ended(60)
        assert termios.tcgetattr(terminal) == before


def test_health_is_one_line_and_an_exit_status(troth: CommandLine) -> None:
    troth.api.say(200, {"status": "ready"})
    assert troth("health") == f"{troth.api.url}: ready\n"
    assert troth.last == "GET /ready"

    troth.api.say(200, {"status": "ready", "clock": "the wall clock was set by 7000 ms"})
    assert troth("health") == f"{troth.api.url}: ready; the wall clock was set by 7000 ms\n"

    troth.api.refuse(50301, "The server is starting", "It reads its log.")
    assert troth("health", status=1) == ""
    assert troth.errors == "Error: 50301 The server is starting It reads its log.\n"

    troth.api.say(200, {"status": "ok"})
    assert troth("health", "--live") == f"{troth.api.url}: ok\n"
    assert troth.last == "GET /health"


def test_health_of_no_server_has_a_status_of_its_own(troth: CommandLine) -> None:
    assert troth("health", "--server", "http://127.0.0.1:1", status=3) == ""
    assert troth.errors.count("\n") == 1
