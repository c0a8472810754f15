"""Failed attempts that are spread over processes are still limited."""

import pytest
import trio

from tests.http.identity.copies_world import now_ms
from tests.shards.mesh.world import World, world
from troth.core.failures import Failures
from troth.http.identity.shared_attempts import SharedAttempts

LIMIT_COUNT = 10


def attempts_of(all_of: World) -> list[SharedAttempts]:
    """Return what counts failures in each process."""
    return [
        SharedAttempts(LIMIT_COUNT, now_ms, Failures(), one.mesh.calls) for one in all_of.processes
    ]


@pytest.mark.parametrize("peer", ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1"])
async def test_failed_attempts_spread_over_processes_are_limited(
    autojump_clock: object, peer: str
) -> None:
    async with world(3, delay_s=0.01) as all_of:
        attempts = attempts_of(all_of)
        for number in range(LIMIT_COUNT):
            assert [one.wait_ms(peer) for one in attempts] == [0, 0, 0]
            attempts[number % 3].failed(peer)
            await trio.sleep(0.1)
        assert all(58_000 < one.wait_ms(peer) <= 60_000 for one in attempts)
        assert [one.wait_ms("10.9.9.9") for one in attempts] == [0, 0, 0]
        await trio.sleep(60)
        assert [one.wait_ms(peer) for one in attempts] == [0, 0, 0]


async def test_while_its_home_is_away_each_process_limits_an_address(
    autojump_clock: object,
) -> None:
    async with world(2) as all_of:
        attempts = attempts_of(all_of)
        all_of.cut_off(1)
        await trio.sleep(3)
        for _ in range(LIMIT_COUNT):
            attempts[0].failed("10.0.0.1")
            attempts[0].failed("10.0.0.2")
        assert attempts[0].wait_ms("10.0.0.1")
        assert attempts[0].wait_ms("10.0.0.2")
