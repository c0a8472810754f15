"""The lane waits for what comes next itself, but keeps nothing of trio's waiting."""

import select
import socket
from dataclasses import dataclass
from typing import Any, Final, cast

import pytest
import trio
import trio.testing

from troth.http.settings.settings import Settings
from troth.http.sockets import lane
from troth.http.sockets.lane_waiting import patience_s

from .test_bounded_memory import listening

LIMIT_S: Final = 0.004
STAY_S: Final = 2.0
READS_COUNT: Final = 20


@dataclass(frozen=True)
class OtherLane:
    """A lane of another port."""

    is_rung: bool = False


@dataclass(frozen=True)
class Connection:
    """A connection that notes when it is its turn."""

    name: str
    happened: list[str]

    def on_event(self, mask: int) -> None:  # noqa: ARG002  the real one's
        self.happened.append(self.name)

    def work(self) -> None:
        self.happened.append(self.name)


class LoopPasses(trio.abc.Instrument):
    """Counts the passes of trio's loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name
        self.count += 1


async def test_the_lane_waits_as_long_as_it_may() -> None:
    await trio.testing.wait_all_tasks_blocked()
    assert patience_s(LIMIT_S, [OtherLane()]) == LIMIT_S


async def test_it_does_not_wait_beyond_a_deadline(nursery: trio.Nursery) -> None:
    nursery.start_soon(trio.sleep, 60)
    await trio.testing.wait_all_tasks_blocked()
    assert patience_s(1000, []) <= 60
    nursery.cancel_scope.cancel()


async def test_it_does_not_wait_while_a_task_could_run(nursery: trio.Nursery) -> None:
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(trio.lowlevel.checkpoint)
    assert patience_s(LIMIT_S, []) == 0


async def test_it_does_not_wait_while_another_lane_is_rung() -> None:
    await trio.testing.wait_all_tasks_blocked()
    assert patience_s(LIMIT_S, [OtherLane(), OtherLane(is_rung=True)]) == 0


async def test_requests_one_after_the_other_need_no_pass_of_trio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "_STAY_S", STAY_S)
    passes = LoopPasses()

    def ask(port: int) -> int:
        """Return how many passes there were from the first answer to the last."""
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET /promises/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 404")
            before_count = passes.count
            for _ in range(READS_COUNT):
                connection.sendall(b"GET /promises/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 404")
            return passes.count - before_count

    async with listening(Settings(), lane=True) as (listener, _):
        trio.lowlevel.add_instrument(passes)
        assert await trio.to_thread.run_sync(ask, listener.port) < READS_COUNT / 2
        trio.lowlevel.remove_instrument(passes)


async def test_other_tasks_go_on_beside_a_client_that_never_pauses() -> None:
    is_over = False

    def ask(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            while not is_over:
                connection.sendall(b"GET /promises/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 404")

    async with listening(Settings(), lane=True) as (listener, _), trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, ask, listener.port)
        with trio.fail_after(60):
            async with await trio.open_tcp_stream("127.0.0.1", listener.port) as stream:
                # It is not served by the lane.
                await stream.send_all(b"GET /docs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert await stream.receive_some(4096)
        is_over = True


async def test_what_the_log_tells_streams_is_written_before_anything_new_is_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []
    told, asked = Connection("told", happened), Connection("asked", happened)
    earlier = Connection("earlier", happened)
    async with listening(Settings(), lane=True) as (listener, world):
        served: Any = listener.lane
        served.again(earlier)
        monkeypatch.setattr(world.api.shards, "look_at_log", lambda: served.again(told))
        monkeypatch.setattr(served, "_connections", {-1: asked})
        served._pass([(-1, select.EPOLLIN)])
        monkeypatch.undo()
    assert happened == ["told", "asked", "earlier"]


async def test_what_the_log_tells_streams_of_another_port_waits_for_no_pass_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []
    told, asked = Connection("told", happened), Connection("asked", happened)
    async with (
        listening(Settings(), lane=True) as (listener, world),
        listening(Settings(), lane=True) as (other, _),
    ):
        served, neighbor = cast(Any, listener.lane), cast(Any, other.lane)
        monkeypatch.setattr(served, "neighbors", [neighbor])
        monkeypatch.setattr(world.api.shards, "look_at_log", lambda: neighbor.again(told))
        monkeypatch.setattr(served, "_connections", {-1: asked})
        served._pass([(-1, select.EPOLLIN)])
        monkeypatch.undo()
        assert not neighbor.is_rung
    assert happened == ["told", "asked"]
