"""How many requests may be in work on hypercorn's side, and who is next."""

import trio
import trio.testing

from troth.http.sockets.slow_gate import PATIENCE_S, TICKETS_COUNT, SlowGate, Ticket


async def test_so_many_are_in_work_and_the_others_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gate = SlowGate()
    tickets = [await gate.enter() for _ in range(TICKETS_COUNT)]
    entered: list[int] = []

    async def enter(number: int) -> None:
        tickets.append(await gate.enter())
        entered.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(enter, number)
            await trio.testing.wait_all_tasks_blocked()
        assert entered == []
        assert gate.statistics().waiting_count == 5  # and one at the gate itself
        for number in range(6):
            gate.leave(tickets[number])
            await trio.testing.wait_all_tasks_blocked()
            assert entered == list(range(number + 1))
    assert gate.statistics().in_work_count == TICKETS_COUNT


async def test_who_waits_for_something_else_does_not_keep_the_gate_shut(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gate = SlowGate()
    hanging = [await gate.enter() for _ in range(TICKETS_COUNT)]
    started = trio.current_time()

    later = [await gate.enter() for _ in range(3)]

    assert PATIENCE_S <= trio.current_time() - started < 2 * PATIENCE_S
    for ticket in hanging:  # those that have gone to others are not given back twice
        gate.leave(ticket)
    assert gate.statistics().in_work_count == len(later)


async def test_who_gives_up_at_the_gate_is_passed_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gate = SlowGate()
    tickets: list[Ticket] = [await gate.enter() for _ in range(TICKETS_COUNT)]
    with trio.move_on_after(PATIENCE_S / 2) as impatient:
        await gate.enter()
    assert impatient.cancelled_caught
    gate.leave(tickets[0])

    with trio.fail_after(PATIENCE_S / 4):
        await gate.enter()
