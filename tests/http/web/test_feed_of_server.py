"""The live feed of a real server, on the lane and off it: what is told, to whom, until when."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.repository import IMPORT_ROOT
from tests.helpers.server import ServerProcess
from tests.http.client import FAR_MS
from tests.http.sockets.test_lane import lane_numbers

from .closed_server import PATIENCE_S, Closed, listening


def test_a_change_is_told(closed: Closed) -> None:
    _, headers = closed.token("promises:read", "promises:write", "metrics:read")
    with listening(closed.server.url, "topics=counters&watch=a&watch=b", headers) as listener:
        first = listener.next()
        assert first is not None
        assert first[0] == "counters"
        began = time.monotonic()
        body = {"id": "a", "timeout": FAR_MS}
        assert closed.server.request("POST", "/promises", body, headers)[0] == 201
        while (event := listener.next()) is not None and event[0] != "changed":
            assert time.monotonic() - began < PATIENCE_S
        assert event is not None
        assert event[1]["ids"] == ["a"]
        while (event := listener.next()) is not None and event[0] != "counters":
            assert time.monotonic() - began < PATIENCE_S
        assert event is not None
        assert event[1]["counts"]["promises"]["pending"] == 1


@pytest.mark.slow
def test_a_stream_is_served_by_the_lane(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("lane")
    with (
        ServerProcess(directory) as server,
        listening(server.url, "topics=counters", {}) as listener,
    ):
        assert listener.next() is not None
        numbers = lane_numbers(server)
        # Asking for these numbers takes a connection off it.
        assert (numbers["connections"], numbers["handed_over_total"]) == (1, 1)


def test_a_stream_ends_with_its_token(closed: Closed) -> None:
    token_id, headers = closed.token("metrics:read")
    with listening(closed.server.url, "topics=counters", headers) as listener:
        assert listener.next() is not None
        assert closed.operator.send("DELETE", f"/admin/tokens/{token_id}")[0] < 300
        listener.wait_for_end()


@pytest.mark.slow
def test_a_stream_ends_when_its_token_expires(closed: Closed) -> None:
    _, headers = closed.token("metrics:read", expiresIn=2_000)
    with listening(closed.server.url, "topics=counters", headers) as listener:
        assert listener.next() is not None
        listener.wait_for_end()


@pytest.mark.parametrize(
    ("scopes", "more", "query", "status"),
    [
        (["promises:read"], {}, "topics=failures&watch=a", 200),
        (["promises:read"], {}, "topics=counters", 403),
        (["promises:read"], {}, "topics=failures,queues", 403),
        (["metrics:read"], {}, "topics=counters,queues,failures", 200),
        (["metrics:read"], {}, "watch=a", 403),
        (["metrics:read"], {}, "topics=bulk", 403),
        (["promises:read"], {}, "topics=bulk", 200),
        (["promises:write", "tasks:read"], {}, "topics=failures", 403),
        (["promises:read"], {"idPrefix": "a/"}, "watch=a/1", 200),
        (["promises:read"], {"idPrefix": "a/"}, "watch=a/1&watch=b/1", 403),
    ],
)
def test_one_hears_what_one_may_read(
    closed: Closed, scopes: list[str], more: dict[str, str], query: str, status: int
) -> None:
    _, headers = closed.token(*scopes, **more)
    with listening(closed.server.url, query, headers, status):
        pass


def test_without_credentials_nothing_is_told(closed: Closed) -> None:
    assert closed.server.request("GET", "/events?topics=counters")[0] == 401


def test_the_command_prints_a_line_for_each_event(closed: Closed) -> None:
    _, headers = closed.token("promises:read", "promises:write", "metrics:read")
    token = headers["Authorization"].removeprefix("Bearer ")
    command = [
        sys.executable,
        "-m",
        "troth",
        "events",
        "--json",
        "--watch",
        "c",
        "--topic",
        "counters",
    ]
    with subprocess.Popen(
        [*command, "--server", closed.server.url, "--token", token],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(IMPORT_ROOT), "PATH": "/usr/bin:/bin"},
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "counters"
        body = {"id": "c", "timeout": FAR_MS}
        assert closed.server.request("POST", "/promises", body, headers)[0] == 201
        names = set()
        while "changed" not in names:
            names.add(json.loads(process.stdout.readline())["event"])
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
