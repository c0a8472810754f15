"""The catalogue's entries about messages to workers and between shards."""

import pytest
import trio.testing

from tests.core import test_dispatch, test_machine
from tests.core.system import System
from tests.http.outgoing import test_push
from tests.shards import test_delivery as polled
from tests.shards import test_delivery_push as shards_push
from tests.shards import test_outbox
from troth.core import commands as c
from troth.core.codes import Code
from troth.core.deciding import Options


def test_outbox_delivered_delivery_mark_lost_duplicate_push() -> None:
    """ "outbox delivered, delivery mark lost (duplicate push)": the second is the first again.

    It has the same counter, so that of all who got it one can claim the task, once.
    """
    system = System(1, Options(task_claim_timeout_ms=100))
    test_dispatch.create(system, "p", invoke="http://worker.test/")
    (first,) = system.sent
    after = system.restarted()
    (second,) = after.sent
    assert (second.task.id, second.task.counter) == (first.task.id, first.task.counter)
    claims = [after.ask(c.ClaimTask(first.task.id, 1, who, 1_000)).code for who in ("a", "b")]
    assert claims == [Code.CREATED, Code.TASK_CLAIMED]
    test_dispatch.test_after_a_restart_what_was_not_reported_is_sent_again(
        System(1, Options(task_claim_timeout_ms=100))
    )


async def test_push_target_hangs() -> None:
    """ "push target hangs / 500s / redirects": it is cut off at the time limit."""
    await test_push.test_everything_ends_at_the_deadline(test_push.hang)


async def test_push_target_hangs_among_good_ones(autojump_clock: trio.testing.MockClock) -> None:
    """ "push target hangs / 500s / redirects": hundreds that hang delay none that does not."""
    await shards_push.test_good_targets_find_room_while_hundreds_hang(autojump_clock)


@pytest.mark.parametrize("status", [500, 503])
async def test_push_target_500s(status: int, autojump_clock: trio.testing.MockClock) -> None:
    """ "push target hangs / 500s / redirects": a failure, tried again at the back-off's pace."""
    await test_push.test_any_other_status_is_failure(status)
    await shards_push.test_a_failing_target_is_probed_at_the_back_off_pace(autojump_clock)


async def test_push_target_redirects() -> None:
    """ "push target hangs / 500s / redirects": followed on its own host, for a while."""
    await test_push.test_redirects_on_the_same_host_are_followed(307, "POST")
    await test_push.test_redirects_elsewhere_are_refused("http://localhost:{port}/")
    await test_push.test_redirect_loops_end()


async def test_poller_disconnects_with_a_message_in_flight(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """ "poller disconnects with a message in flight": it goes to another, or waits for one."""
    await polled.test_a_worker_that_leaves_with_a_message_in_flight(autojump_clock)


async def test_slow_consumer_fills_buffers(autojump_clock: trio.testing.MockClock) -> None:
    """ "slow consumer fills buffers": it holds its buffer's worth, and nobody else up."""
    await polled.test_a_slow_consumer_fills_its_buffer_and_the_rest_goes_elsewhere_or_waits(
        autojump_clock
    )


@pytest.mark.slow
async def test_reordering_and_duplication_of_messages(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """ "reordering and duplication of messages": between shards, and of delivery's reports."""
    test_machine.test_a_message_that_was_applied_is_acknowledged_again_and_changes_nothing()
    test_dispatch.test_a_late_report_about_an_earlier_message_changes_nothing(
        System(1, Options(task_claim_timeout_ms=100))
    )
    await test_outbox.test_no_crash_loses_or_repeats_a_message(0, autojump_clock)
