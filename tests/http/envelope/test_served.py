"""Settings of the envelope protocol, in a server of its own process."""

import itertools
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.helpers.server import ServerProcess
from tests.http.client import FAR_MS
from tests.http.envelope.conversation import TARGET, VERSION
from troth.core.limits import WORKFLOW_RETRY_MS

TARGETED: Final = {"resonate:target": TARGET}
LATE_MS: Final = 1_000_000
PATIENCE_S: Final = 60.0


def said(server: ServerProcess, kind: str, data: object, head: dict[str, object]) -> Any:
    """Make a request that succeeds; its data."""
    whole = {"corrId": "c", "version": VERSION, **head}
    envelope = {"kind": kind, "head": whole, "data": data}
    answer = httpx.post(server.url, json=envelope, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_server_on_disk_does_what_follows_at_the_same_time(tmp_path: Path, count: int) -> None:
    """Messages leave when their cause is on disk, which takes a while: the time is still set.

    Of several processes, each request reaches another one.
    """
    with ServerProcess(tmp_path, "--debug-operations", "--processes", str(count)) as server:
        assert "debug operations are on" in server.log()

        def say(kind: str, now_ms: int | None = None, **data: object) -> Any:
            return said(server, kind, data, {"resonate:debug_time": now_ms})

        say("debug.start")
        say("promise.create", 10, id="r", timeoutAt=LATE_MS, tags=TARGETED)
        say("task.acquire", 20, id="r", version=0, pid="w", ttl=1_000)
        assert say("debug.tick", time=1_020) == []
        again_at = 1_020 + WORKFLOW_RETRY_MS
        assert say("debug.snap")["taskTimeouts"] == [{"id": "r", "type": 0, "timeout": again_at}]
        assert say("debug.tick", time=LATE_MS) == []
        assert say("promise.get", LATE_MS, id="r")["promise"]["settledAt"] == LATE_MS

        # Over shards, and so over groups.
        ids = [f"child-{number}" for number in range(8)]
        say("promise.create", 10, id="parent", timeoutAt=LATE_MS, tags=TARGETED)
        say("task.acquire", 20, id="parent", version=0, pid="w", ttl=1_000)
        for one in ids:
            say("promise.create", 30, id=one, timeoutAt=2_000)
        head = {"corrId": "c", "version": VERSION}
        callbacks = [
            {
                "kind": "promise.register_callback",
                "head": head,
                "data": {"awaited": one, "awaiter": "parent"},
            }
            for one in ids
        ]
        say("task.suspend", 40, id="parent", version=1, actions=callbacks)
        assert {one["awaited"] for one in say("debug.snap")["callbacks"]} == set(ids)
        say("debug.tick", time=2_000)
        snap = say("debug.snap")
        assert [one["message"]["data"]["task"]["id"] for one in snap["messages"]] == ["parent"]
        assert {one["settledAt"] for one in snap["promises"] if one["id"] in ids} == {2_000}
        say("debug.reset")
        snap = say("debug.snap")
        assert [snap[name] for name in ("promises", "tasks", "callbacks", "messages")] == [[]] * 4


@pytest.mark.slow
def test_an_unclaimed_task_is_sent_again_after_the_time_that_is_set(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path, "--workflow-retry-ms", "1000") as server,
        httpx.stream("GET", f"{server.url}/poll/workers/w", timeout=PATIENCE_S) as stream,
    ):
        data = {"id": "p", "timeoutAt": FAR_MS, "tags": TARGETED}
        said(server, "promise.create", data, {})
        messages = (line for line in stream.iter_lines() if line.startswith("data: "))

        # The usual wait is half the patience of this client, which would not see three.
        assert WORKFLOW_RETRY_MS * 2 >= PATIENCE_S * 1000
        assert len(set(itertools.islice(messages, 3))) == 1
