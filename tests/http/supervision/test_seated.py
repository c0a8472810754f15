"""A process and its supervisor: the seat, what is said and heard, and an end of either."""

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from troth.cli.serve import SEAT_VARIABLE
from troth.http.supervision import seated as seated_module
from troth.http.supervision.seat import (
    LINE_LIMIT_BYTES,
    VARIABLE,
    Lines,
    ProcessSeat,
    SeatRefused,
    SupervisorGone,
    descriptor_path,
    encode,
    encode_seat,
    take,
)
from troth.http.supervision.seated import Seated, wait_to_serve


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's end and the process's."""
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[ProcessSeat]:
    """A seat with a lock and a listening socket, as a process inherits them."""
    lock = os.open(tmp_path, os.O_RDONLY)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        descriptor = os.dup(listening.fileno())
        os.set_inheritable(descriptor, True)
        os.set_inheritable(lock, True)
        address = listening.getsockname()
        yield ProcessSeat(1, 3, 77, str(tmp_path), lock, (descriptor,), (), address, None, "run")
    os.close(lock)


def said(supervisor: socket.socket, lines: Lines) -> list[Any]:
    """Wait for what a process has said next."""
    return list(lines.feed(supervisor.recv(65536)))


def test_a_seat_is_taken_from_the_environment(
    seat: ProcessSeat, pair: tuple[socket.socket, socket.socket]
) -> None:
    supervisor, theirs = pair
    environment = {VARIABLE: str(os.dup(theirs.fileno())), "OTHER": "1"}
    told = encode_seat(seat, [75, 76]) + encode({"tell": "lead", "leads": True})
    socket.send_fds(supervisor, [told], seat.descriptors)
    control = take(environment)
    assert environment == {"OTHER": "1"}
    seated = wait_to_serve(control)
    taken = seated.seat
    for descriptor in (*taken.descriptors, control.fileno()):
        assert not os.get_inheritable(descriptor), "no process that it starts has them"
    assert set(taken.descriptors).isdisjoint(seat.descriptors), "they have numbers of their own"
    assert os.path.samestat(os.fstat(taken.lock), os.fstat(seat.lock))
    assert seated.handed_over.api[0].getsockname() == seat.api_address
    assert taken == replace(seat, lock=taken.lock, api=taken.api)
    assert seated.ended == {75, 76}
    assert said(supervisor, Lines()) == [{"say": "loaded"}]
    os.close(taken.lock)
    control.close()
    for one in seated.handed_over.api:
        one.close()


async def test_a_seat_that_another_process_still_has_is_its_own_later(
    seat: ProcessSeat, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Who looks in another thread sees who has ended as soon as the seat is not early."""
    supervisor, theirs = pair
    told = encode_seat(seat, [75], is_early=True)
    socket.send_fds(supervisor, [told], seat.descriptors)
    seated = wait_to_serve(theirs)
    assert seated.is_early
    assert seated.ended == {75}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seated.run)
        seated.following()
        supervisor.sendall(encode({"tell": "checkpoint"}))
        await seated.checkpoint.wait()
        assert not seated.stays.is_set()
        supervisor.sendall(encode({"tell": "stay"}) + encode({"tell": "seated", "ended": [75, 76]}))
        await seated.stays.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert not seated.is_early
        assert seated.ended == {75, 76}
        seated.checkpointed(is_covered=True, memory_bytes=9)
        seated.gone()
        nursery.cancel_scope.cancel()
    lines, found = Lines(), list[Any]()
    while {"say": "gone"} not in found:
        found += said(supervisor, lines)
    assert {"say": "following"} in found
    assert {"say": "checkpointed", "is_covered": True, "memory_bytes": 9} in found
    for one in seated.handed_over.api:
        one.close()
    os.close(seated.seat.lock)


@pytest.mark.parametrize("text", ["x", "99999", ""])
def test_a_variable_of_a_user_is_refused(text: str) -> None:
    with pytest.raises(SeatRefused, match="remove it from the environment"):
        take({VARIABLE: text})


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"x\n", b'{"tell":"seat","process":1}\n'])
def test_what_is_no_seat_is_refused(line: bytes, pair: tuple[socket.socket, socket.socket]) -> None:
    supervisor, theirs = pair
    supervisor.sendall(line)
    supervisor.shutdown(socket.SHUT_WR)
    with pytest.raises(SeatRefused):
        wait_to_serve(theirs)


def test_a_seat_without_its_descriptors_is_refused(
    seat: ProcessSeat, pair: tuple[socket.socket, socket.socket]
) -> None:
    supervisor, theirs = pair
    supervisor.sendall(encode_seat(seat))
    with pytest.raises(SeatRefused, match="its descriptors are missing"):
        wait_to_serve(theirs)


def test_paths_through_the_lock_are_those_of_the_process(seat: ProcessSeat) -> None:
    """Where the data directory's path is too long for a socket's."""
    through = replace(seat, mesh_directory=f"{descriptor_path(seat.lock)}run", poll=(5,), mesh=(6,))
    moved = through.with_descriptors([20, 21, 22, 23])
    assert moved.mesh_directory == "/proc/self/fd/20/run"
    assert moved.descriptors == (20, 21, 22, 23)
    assert seat.with_descriptors([20, 21]).mesh_directory == "run"


@pytest.fixture
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seated_module, "MORE_AFTER_S", 0.01)
    monkeypatch.setattr(seated_module, "ALIVE_INTERVAL_S", 0.01)


@pytest.mark.usefixtures("_in_haste")
def test_a_program_that_waits_for_long_loads_more_and_says_that_it_lives(
    seat: ProcessSeat, pair: tuple[socket.socket, socket.socket]
) -> None:
    """One part after the other; a seat that is told in between comes first."""
    supervisor, theirs = pair
    done: list[str] = []
    found: list[Any] = []

    def second() -> None:
        done.append("second")
        lines = Lines()
        while len(found) < 3:
            found.extend(said(supervisor, lines))
        socket.send_fds(supervisor, [encode_seat(seat)], seat.descriptors)

    more = [lambda: done.append("first"), second, lambda: done.append("third")]
    seated = wait_to_serve(theirs, more)
    assert done == ["first", "second"]
    assert found == [{"say": "loaded"}, {"say": "alive"}, {"say": "alive"}]
    for one in seated.handed_over.api:
        one.close()
    os.close(seated.seat.lock)


@pytest.mark.usefixtures("_in_haste")
def test_a_program_that_has_done_all_it_can_before_its_seat_says_so_once(
    seat: ProcessSeat, pair: tuple[socket.socket, socket.socket]
) -> None:
    supervisor, theirs = pair
    found: list[Any] = []

    def serve() -> None:
        lines = Lines()
        while found.count({"say": "alive"}) < 4:
            found.extend(said(supervisor, lines))
        socket.send_fds(supervisor, [encode_seat(seat)], seat.descriptors)

    serving = threading.Thread(target=serve)
    serving.start()
    seated = wait_to_serve(theirs, [lambda: None], may_follow=True)
    serving.join()
    prepared = {"say": "prepared", "may_follow": True}
    assert found[:4] == [*({"say": one} for one in ("loaded", "alive", "alive")), prepared]
    assert found.count(prepared) == 1
    for one in seated.handed_over.api:
        one.close()
    os.close(seated.seat.lock)


def test_lines_are_whole_messages() -> None:
    lines = Lines()
    assert lines.feed(b'{"a":1}\n{"b"') == [{"a": 1}]
    assert lines.feed(b":2}\n") == [{"b": 2}]
    for wrong in (b"[1]\n", b"x\n", b"y" * (LINE_LIMIT_BYTES + 1)):
        with pytest.raises(ValueError):  # noqa: PT011
            Lines().feed(wrong)


async def test_signs_of_life_and_what_is_heard(
    seat: ProcessSeat, pair: tuple[socket.socket, socket.socket]
) -> None:
    supervisor, theirs = pair
    seated, lines = Seated(replace(seat, api=()), theirs), Lines()
    heard: list[dict[int, int]] = []
    seated.on_peers.append(lambda: heard.append(dict(seated.peers)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seated.run)
        found: list[Any] = []
        while len(found) < 2:
            found += await trio.to_thread.run_sync(said, supervisor, lines)
        assert found[:2] == [{"say": "alive"}, {"say": "alive"}]
        seated.listening()
        seated.ready("serving")
        while {"say": "ready", "status": "serving"} not in found:
            found += await trio.to_thread.run_sync(said, supervisor, lines)
        assert {"say": "listening"} in found
        supervisor.sendall(
            encode({"tell": "peers", "up": [[0, 5], [2, 9]], "are_ready": True, "is_serving": True})
        )
        supervisor.sendall(encode({"tell": "drain"}))
        with trio.fail_after(30):
            await seated.drain.wait()
        assert heard == [{0: 5, 2: 9}]
        assert not seated.stop.is_set()
        supervisor.sendall(encode({"tell": "stop"}))
        with trio.fail_after(30):
            await seated.stop.wait()
        nursery.cancel_scope.cancel()


async def test_a_supervisor_that_has_gone_stops_the_process(
    seat: ProcessSeat, pair: tuple[socket.socket, socket.socket]
) -> None:
    supervisor, theirs = pair
    seated = Seated(replace(seat, api=()), theirs)
    supervisor.close()
    with trio.fail_after(30):
        await seated.run()  # and it ends
    assert seated.drain.is_set()
    assert seated.stop.is_set()
    seated.fatal("nobody hears it")


def test_a_supervisor_that_goes_before_the_start(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    supervisor, theirs = pair
    supervisor.close()
    with pytest.raises(SupervisorGone):
        wait_to_serve(theirs)


@pytest.mark.slow
async def test_a_supervisor_that_reads_nothing_holds_nothing_up(
    seat: ProcessSeat, pair: tuple[socket.socket, socket.socket]
) -> None:
    """What does not fit into the socket is kept, up to a limit, and follows later."""
    supervisor, theirs = pair
    seated, lines = Seated(replace(seat, api=()), theirs), Lines()
    for number in range(30_000):
        seated.status(f"{number} {'x' * 100}")
    found: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seated.run)
        with trio.fail_after(60):
            while {"say": "alive"} not in found:
                found += await trio.to_thread.run_sync(said, supervisor, lines)
        nursery.cancel_scope.cancel()
    numbers = [int(one["status"].split()[0]) for one in found if one["say"] == "status"]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 5_000


def test_the_command_looks_for_the_variable_by_its_name() -> None:
    """It does not load the module that has the name."""
    assert SEAT_VARIABLE == VARIABLE


def test_a_seat_has_no_field_that_is_not_told(seat: ProcessSeat) -> None:
    (told,) = Lines().feed(encode_seat(seat))
    assert told.keys() == asdict(seat).keys() | {"tell", "ended"}
