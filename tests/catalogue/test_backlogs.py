"""The catalogue's entries about what waits, and about much that comes due at once."""

from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from tests.helpers.server import ServerProcess
from tests.shards import test_delivery, test_passes, test_withheld
from tests.shards.delivery_world import World, message
from troth.shards.delivery.missed import MISSED_AFTER_MS

pytestmark = pytest.mark.slow

FAR = 4_102_444_800_000


async def test_two_undeliverable_tasks_spin(autojump_clock: MockClock) -> None:
    """ "two undeliverable tasks spin forever": they wait, and nothing happens."""
    await test_delivery.test_undeliverable_receivers_stall_and_cost_nothing(
        "nonsense", autojump_clock
    )


async def test_much_that_is_due_at_once(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """ "much that is due at once stops everything": all shards share one budget of time."""
    costly = test_passes.make_costly(monkeypatch, mock_clock)
    await test_passes.test_timers_of_all_shards_share_a_pass(costly, mock_clock)


def test_a_backlog_makes_the_server_unstartable(tmp_path: Path) -> None:
    """ "a backlog makes the server unstartable": more waits in one shard than its mailbox holds."""
    tags = {"resonate:invoke": "poll://any@nobody"}
    with ServerProcess(tmp_path, "--shards", "1", "--mailbox-limit-count", "512") as server:
        for number in range(600):
            promise = {"id": f"p{number}", "timeout": FAR, "tags": tags}
            assert server.request("POST", "/promises", promise)[0] == 201
        assert server.terminate() == 0
        server.start()
        assert server.request("GET", "/promises/p0")[1]["state"] == "PENDING"


async def test_an_account_with_a_long_queue_is_disabled(autojump_clock: MockClock) -> None:
    """ "an account with a long queue is disabled, and everybody waits": it moves in slices."""
    await test_withheld.test_what_moves_starts_in_no_slice(autojump_clock)


async def test_a_group_nobody_listens_to(autojump_clock: MockClock) -> None:
    """ "a group nobody listens to gives no word": one warning, with those that are there."""
    world = World()
    with structlog.testing.capture_logs() as lines:
        async with world.running():
            with world.polls.connect("other", "w"):
                for number in range(5):
                    world.send(message(f"t{number}", "poll://any@missed"))
                world.send(message("soon", "poll://any@late"))
                await trio.sleep(MISSED_AFTER_MS / 2_000)
                with world.polls.connect("late", "w"):
                    await trio.sleep(MISSED_AFTER_MS / 100)

    missed = [line for line in lines if "no worker listens" in line["event"]]
    assert [(line["group"], line["connected_groups"]) for line in missed] == [
        ("missed", ["late", "other"])
    ]
