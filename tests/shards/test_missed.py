"""Warnings of groups that nobody listens to: given after a while, once, and only if it is so."""

import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from troth.shards.alarms import Alarms
from troth.shards.delivery import missed
from troth.shards.delivery.missed import MISSED_AFTER_MS, MissedReceivers
from troth.shards.delivery.polls import Polls

WHILE_S = MISSED_AFTER_MS / 1_000 + 1


async def test_a_group_is_missed_once_unless_it_came_or_nothing_waits(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls, alarms = Polls(connections_limit_count=9, buffer_limit_count=9), Alarms()
    waiting = {"absent", "late"}
    receivers = MissedReceivers(alarms, polls, waiting.__contains__)
    with structlog.testing.capture_logs() as logs:
        monkeypatch.setattr(missed, "_log", structlog.get_logger())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarms.run)
            polls.connect("there", "x")
            for group in ("absent", "absent", "late", "over", "there"):
                receivers.waits_for(group)
            polls.connect("late", "x")
            receivers.connected("late")
            await trio.sleep(WHILE_S)
            assert [log["group"] for log in logs] == ["absent"]
            assert logs[0]["connected_groups"] == ["late", "there"]

            # It is said again only after the group was there, or nothing waited for it.
            receivers.waits_for("absent")
            waiting.add("over")
            receivers.waits_for("over")
            await trio.sleep(WHILE_S)
            assert [log["group"] for log in logs] == ["absent", "over"]
            receivers.connected("absent")
            receivers.waits_for("absent")
            await trio.sleep(WHILE_S)
            assert [log["group"] for log in logs] == ["absent", "over", "absent"]
            nursery.cancel_scope.cancel()


async def test_a_reason_is_said_once_and_not_remembered_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    polls = Polls(connections_limit_count=9, buffer_limit_count=9)
    receivers = MissedReceivers(Alarms(), polls, lambda _: True)
    monkeypatch.setattr(missed, "_REMEMBERED_COUNT", 2)
    with structlog.testing.capture_logs() as logs:
        monkeypatch.setattr(missed, "_log", structlog.get_logger())
        for number, reason in enumerate(["a", "a", "b", "a", "c", "a"]):
            receivers.cannot_resolve(f"t{number}", reason)
    assert [(log["task"], log["reason"]) for log in logs] == [
        ("t0", "a"),
        ("t2", "b"),
        ("t4", "c"),
        ("t5", "a"),
    ]
