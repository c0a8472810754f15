"""Calls and notes between processes: answered once, refused when a link breaks, notes in order."""

import pytest
import trio
from msgspec import Struct

from tests.shards.mesh.world import make_process, until, world
from tests.shards.stage import CalledBack
from troth.core.commands import ReadPromise
from troth.core.replies import Reply
from troth.shards.errors import CallFailed, LinkBroken, OutOfReach, Overloaded, ShardsError
from troth.shards.mesh.calls import ProcessCall, ProcessNote, the_first


class Sum(Struct, array_like=True):
    """What is to be added."""

    numbers: tuple[int, ...]


ADD = ProcessCall("add", Sum, int)
SAY = ProcessNote("say", str)


async def add(process: int, asked: Sum) -> int:
    """Add numbers up."""
    return sum(asked.numbers)


async def test_a_call_is_answered_by_the_process_that_was_asked(autojump_clock: object) -> None:
    async with world(3, delay_s=0.01) as all_of:
        for one in all_of.processes:
            own = one.place.process

            async def times(process: int, asked: Sum, own: int = own) -> int:
                return sum(asked.numbers) * 100 + own * 10 + process

            one.mesh.calls.handle(ADD, times)
        calls = all_of.processes[0].mesh.calls
        assert await calls.call(2, ADD, Sum((1, 2))) == 320
        assert await calls.call(0, ADD, Sum((1, 2))) == 300
        assert await calls.call_all(ADD, Sum((4,))) == {0: 400, 1: 410, 2: 420}
        assert sorted(calls.others) == [1, 2] == sorted(calls.linked)


async def test_a_call_waits_for_a_link_but_not_for_long(autojump_clock: object) -> None:
    async with world(2) as all_of:
        all_of.processes[1].mesh.calls.handle(ADD, add)
        calls = all_of.processes[0].mesh.calls
        all_of.cut_off(1)
        with trio.fail_after(60):
            await until(lambda: not calls.linked)
        with pytest.raises(OutOfReach):
            await calls.call(1, ADD, Sum((1,)), wait_ms=0)
        started_s = trio.current_time()
        with pytest.raises(OutOfReach):
            await calls.call(1, ADD, Sum((1,)), wait_ms=1_000)
        assert 1 <= trio.current_time() - started_s < 2
        found: list[int] = []

        async def ask() -> None:
            found.append(await calls.call(1, ADD, Sum((1, 2)), wait_ms=20_000))

        all_of.nursery.start_soon(ask)
        await trio.sleep(1)
        all_of.mend_all()
        with trio.fail_after(60):
            await until(lambda: bool(found))
        assert found == [3]


async def test_a_link_that_breaks_refuses_the_calls_in_flight(autojump_clock: object) -> None:
    async with world(2) as all_of:
        began = trio.Event()

        async def never(process: int, asked: Sum) -> int:
            began.set()
            await trio.sleep_forever()
            return 0

        all_of.processes[1].mesh.calls.handle(ADD, never)
        calls = all_of.processes[0].mesh.calls
        parted: list[int] = []
        calls.when_parted.append(parted.append)
        linked: list[int] = []
        calls.when_linked.append(linked.append)
        errors: list[ShardsError] = []

        async def ask() -> None:
            try:
                await calls.call(1, ADD, Sum((1,)))
            except ShardsError as error:
                errors.append(error)

        all_of.nursery.start_soon(ask)
        await began.wait()
        all_of.wires[0, 1].cut()
        with trio.fail_after(60):
            await until(lambda: bool(errors))
        assert type(errors[0]) is LinkBroken
        assert parted == [1]
        all_of.mend_all()
        with trio.fail_after(60):
            await until(lambda: bool(linked))
        assert linked == [1]


async def test_a_defect_and_a_refusal_reach_the_caller(autojump_clock: object) -> None:
    async with world(2) as all_of:

        async def fail(process: int, asked: Sum) -> int:
            if asked.numbers:
                raise Overloaded
            raise ValueError("planted")

        all_of.processes[1].mesh.calls.handle(ADD, fail)
        all_of.processes[0].mesh.calls.handle(ADD, add)
        calls = all_of.processes[0].mesh.calls
        with pytest.raises(Overloaded):
            await calls.call(1, ADD, Sum((1,)))
        with pytest.raises(CallFailed):
            await calls.call(1, ADD, Sum(()))
        found = await calls.call_all(ADD, Sum(()))
        assert found[0] == 0
        assert type(the_first(found)) is CallFailed
        assert all_of.processes[1].mesh.calls.running_count == 0


async def test_who_does_not_answer_in_time_counts_as_out_of_reach(autojump_clock: object) -> None:
    async with world(3) as all_of:
        for one in all_of.processes:
            one.mesh.calls.handle(ADD, add)
        all_of.wires[0, 2].is_silent = True
        calls = all_of.processes[0].mesh.calls
        started_s = trio.current_time()
        found = await calls.call_all(ADD, Sum((1,)), limit_ms=1_000)
        assert trio.current_time() - started_s < 1.5
        assert (found[0], found[1], type(found[2])) == (1, 1, LinkBroken)


async def test_notes_come_in_order_and_are_lost_with_the_link(autojump_clock: object) -> None:
    async with world(2, delay_s=0.02) as all_of:
        heard: list[tuple[int, str]] = []
        for one in all_of.processes:
            one.mesh.calls.hear(SAY, lambda process, said: heard.append((process, said)))
        calls = all_of.processes[0].mesh.calls
        for number in range(50):
            calls.note_all(SAY, str(number))
        with trio.fail_after(60):
            await until(lambda: len(heard) == 50)
        assert heard == [(0, str(number)) for number in range(50)]
        calls.note(0, SAY, "to myself")
        assert heard[-1] == (0, "to myself")
        all_of.cut_off(1)
        with trio.fail_after(60):
            await until(lambda: not calls.linked)
        calls.note(1, SAY, "lost")
        all_of.mend_all()
        await all_of.until_linked()
        calls.note(1, SAY, "found")
        with trio.fail_after(60):
            await until(lambda: heard[-1][1] == "found")
        assert "lost" not in [said for _, said in heard]


async def test_what_comes_when_a_process_has_ended_is_refused() -> None:
    mesh = make_process(1, (1, 1)).mesh
    mesh.calls.handle(ADD, add)
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.calls.run)
        await nursery.start(mesh.errands.run)
        nursery.cancel_scope.cancel()
    refused: list[ShardsError] = []
    mesh.calls.begin(0, ADD.name, b"", lambda _: None, refused.append)
    assert [type(error) for error in refused] == [Overloaded]

    async def errand(*_: object) -> Reply:
        raise AssertionError("it must not begin")

    with pytest.raises(Overloaded):
        mesh.errands.start(errand, 1, ReadPromise("p"), CalledBack(), 0, None)
