"""Credentials in several processes: what one has changed holds in all before it is answered for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
from msgspec.structs import replace

from tests.http.identity.copies_world import (
    ACCOUNT,
    Copies,
    copies,
    make_copy,
    make_owner,
    token_of,
)
from tests.shards.mesh.world import until
from troth.core.catalog import Token
from troth.core.limits import COPY_CHANGES_KEPT_COUNT, COPY_LEASE_MS, COPY_PAGE_COUNT
from troth.http.identity.copied import CopiedCredentials, CopiedSessions
from troth.http.identity.credentials import Credentials, new_secret
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import OPERATOR

SECRET = new_secret()
TOKEN = token_of(SECRET)


def with_token(credentials: Credentials) -> None:
    """Put in an account and its token."""
    credentials.load([ACCOUNT], [TOKEN])


@asynccontextmanager
async def with_copies(**options: float) -> AsyncIterator[Copies]:
    """Run three processes, all of which know the token."""
    async with copies(before=with_token, **options) as all_of:  # type: ignore[arg-type]
        yield all_of


async def test_a_revoked_token_that_one_process_still_lets_in(autojump_clock: object) -> None:
    async with with_copies(delay_s=0.05, seed=1) as all_of:
        assert all_of.lets_in(SECRET) == [True, True, True]
        all_of.owned.put(replace(TOKEN, revoked_on=1))
        await all_of.owned.spread()
        assert all_of.lets_in(SECRET) == [False, False, False]


@pytest.mark.parametrize("seed", range(8))
async def test_no_change_is_answered_for_before_all_have_it(
    autojump_clock: object, seed: int
) -> None:
    async with with_copies(delay_s=0.2, seed=seed) as all_of:
        token: Token = TOKEN
        for revision in range(2, 8):
            secret = new_secret()
            token = replace(token, revision=revision, digest=token_of(secret).digest)
            all_of.owned.put(token)
            if revision == 4:
                all_of.world.wires[0, 1].cut()
            if revision == 6:
                all_of.world.mend_all()
            await all_of.owned.spread()
            known = all_of.lets_in(secret)
            assert known[0]
            for process in (1, 2):
                copied = all_of.credentials[process]
                assert isinstance(copied, CopiedCredentials)
                assert known[process] or not copied.is_current()


@pytest.mark.parametrize("seed", range(12))
async def test_a_lease_is_counted_from_the_question(autojump_clock: object, seed: int) -> None:
    async with with_copies(delay_s=0.45, seed=seed) as all_of:
        await trio.sleep(Random(seed).uniform(3, 5))
        all_of.world.cut_off(1)
        all_of.owned.put(replace(TOKEN, revoked_on=1))
        await all_of.owned.spread()
        assert all_of.lets_in(SECRET) == [False, False, False]


async def test_a_process_that_is_cut_off_lets_no_token_in_after_a_while(
    autojump_clock: object,
) -> None:
    async with with_copies() as all_of:
        stopped: list[int] = []
        principal = all_of.credentials[1].bearer(SECRET)
        assert principal is not None
        all_of.credentials[1].watch(principal, lambda: stopped.append(1))
        all_of.world.cut_off(1)
        began_s = trio.current_time()
        await trio.sleep(0.1)
        all_of.owned.put(replace(TOKEN, revoked_on=1))
        await all_of.owned.spread()
        assert 1.4 < trio.current_time() - began_s < 2.5, "it waits for the lease, no longer"
        assert all_of.lets_in(SECRET) == [False, False, False]
        assert not all_of.credentials[1].is_loaded
        assert all_of.credentials[1].unknown().code.status == 503
        await trio.sleep(1)
        assert stopped == [1], "who may go on is unknown, so streams end"
        all_of.world.mend_all()
        with trio.fail_after(30):
            await until(lambda: all_of.credentials[1].is_loaded)
        assert all_of.lets_in(SECRET) == [False, False, False]


async def test_a_copy_is_good_as_long_as_there_is_no_owner(autojump_clock: object) -> None:
    async with with_copies() as all_of:
        copied = all_of.credentials[1]
        assert isinstance(copied, CopiedCredentials)
        all_of.world.cut_off(0)
        await trio.sleep(0.1)
        for _ in range(20):
            copied.had_no_owner(trio.current_time())
            await trio.sleep(0.5)
            assert all_of.lets_in(SECRET)[1]
        assert not all_of.lets_in(SECRET)[2], "that one was not told"
        copied.had_no_owner(trio.current_time() - 1)
        await trio.sleep(1.6)
        assert not all_of.lets_in(SECRET)[1], "counted from when there was none"
        copied.had_no_owner(trio.current_time())
        assert not copied.is_loaded, "it may have missed something before"


async def test_a_process_that_hangs_holds_up_no_change_for_long(autojump_clock: object) -> None:
    async with with_copies() as all_of:
        for pair, wire in all_of.world.wires.items():
            wire.is_silent = 2 in pair
        began_s = trio.current_time()
        all_of.owned.put(replace(ACCOUNT, revision=2, disabled=True))
        await all_of.owned.spread()
        assert trio.current_time() - began_s < 2.5
        # Whatever it does first when it goes on, the time has been looked at.
        assert all_of.lets_in(SECRET) == [False, False, False]


async def test_open_access_ends_everywhere_with_the_first_account(autojump_clock: object) -> None:
    async with copies(before=lambda owned: owned.load((), ())) as all_of:
        assert [one.is_open for one in all_of.credentials] == [True, True, True]
        all_of.world.cut_off(2)
        all_of.owned.put(ACCOUNT)
        await all_of.owned.spread()
        assert [one.is_open for one in all_of.credentials] == [False, False, False]
        assert all_of.credentials[1].is_loaded
        assert not all_of.credentials[2].is_loaded


async def test_a_session_made_on_one_process_works_on_another_and_ends_everywhere(
    autojump_clock: object,
) -> None:
    async with with_copies(delay_s=0.02) as all_of:
        principal = all_of.owned.bearer(SECRET)
        assert principal is not None
        opened = all_of.owned.open_session(principal)
        assert opened is not None
        secret, session = opened
        await all_of.owned.spread()
        for one in all_of.credentials:
            found = one.sessions.find(secret)
            assert found is not None
            assert (found.principal, found.csrf) == (session.principal, session.csrf)
        all_of.owned.sessions.end(session)
        await all_of.owned.spread()
        assert [one.sessions.find(secret) for one in all_of.credentials] == [None, None, None]
        opened = all_of.owned.open_session(principal)
        assert opened is not None
        await all_of.owned.spread()
        all_of.owned.put(replace(TOKEN, revoked_on=1))
        await all_of.owned.spread()
        assert [one.sessions.find(opened[0]) for one in all_of.credentials] == [None, None, None]


async def test_sessions_of_a_stale_copy_are_neither_let_in_nor_ended(
    autojump_clock: object,
) -> None:
    async with with_copies() as all_of:
        principal = all_of.owned.bearer(SECRET)
        assert principal is not None
        opened = all_of.owned.open_session(principal)
        assert opened is not None
        await all_of.owned.spread()
        all_of.world.cut_off(1)
        await trio.sleep(5)
        with pytest.raises(ApiError) as refused:
            all_of.credentials[1].sessions.find(opened[0])
        assert refused.value.code.status == 503
        all_of.world.mend_all()
        with trio.fail_after(30):
            await until(lambda: all_of.credentials[1].is_loaded)
        assert all_of.credentials[1].sessions.find(opened[0]) is not None


async def test_a_session_used_on_one_process_goes_on_in_all(autojump_clock: object) -> None:
    async with with_copies() as all_of:
        secret, session = all_of.owned.sessions.open(OPERATOR)
        await all_of.owned.spread()
        await trio.sleep(30)
        assert all_of.credentials[1].sessions.find(secret) is not None
        await trio.sleep(40)
        for one in all_of.credentials:
            found = one.sessions.of(session.principal)
            assert found is not None
            assert found.used_ms > session.opened_ms + 20_000


async def test_the_owner_hears_which_tokens_are_used_elsewhere(autojump_clock: object) -> None:
    async with with_copies() as all_of:
        all_of.owned.take_used()
        all_of.credentials[2].bearer(SECRET)
        await trio.sleep(70)
        assert TOKEN.id in all_of.owned.take_used()


async def test_streams_end_everywhere_with_a_secret(autojump_clock: object) -> None:
    async with with_copies() as all_of:
        ended: list[int] = []
        for process, one in enumerate(all_of.credentials):
            principal = one.bearer(SECRET)
            assert principal is not None
            one.watch(principal, lambda process=process: ended.append(process))  # type: ignore[misc]
        all_of.owned.end_streams(TOKEN)
        await all_of.owned.spread()
        assert sorted(ended) == [0, 1, 2]


async def test_a_copy_that_is_far_behind_is_made_again(autojump_clock: object) -> None:
    async with with_copies(delay_s=0.01) as all_of:
        all_of.world.cut_off(1)
        many = [token_of(str(number), str(number)) for number in range(2, 2 * COPY_PAGE_COUNT)]
        for token in many:
            all_of.owned.put(token)
        while len(many) < COPY_CHANGES_KEPT_COUNT + 10:
            many.append(many[-1])
            all_of.owned.put(many[-1])
        all_of.owned.drop(TOKEN)
        all_of.world.mend_all()
        with trio.fail_after(60):
            await until(lambda: all_of.credentials[1].token(TOKEN.id) is None)
            await until(lambda: all_of.credentials[1].is_loaded)
        assert all_of.credentials[1].tokens() == all_of.owned.tokens()
        assert all_of.lets_in(SECRET) == [False, False, False]


@pytest.mark.parametrize("is_changed_before", [False, True], ids=["by it", "before"])
async def test_an_owner_that_has_started_again_waits_for_leases_of_the_one_before(
    autojump_clock: object, is_changed_before: bool
) -> None:
    """Also if it is asked again for what the one before it has done, but did not tell of."""
    async with with_copies() as all_of:
        # A new life of process 0: it knows nothing of what the one before it has promised.
        process = all_of.world.processes[0]
        calls = process.mesh.calls
        calls._handlers.clear()
        calls._listeners.clear()
        all_of.world.cut_off(0)
        owned, owner = make_owner(process, epoch=2)
        revoked = replace(TOKEN, revoked_on=1)
        owned.load([ACCOUNT], [revoked if is_changed_before else TOKEN])
        owner.begin()
        if not is_changed_before:
            owned.put(revoked)
        await owned.spread()
        assert [one.bearer(SECRET) for one in all_of.credentials[1:]] == [None, None]
        all_of.world.mend_all()
        with trio.fail_after(30):
            await until(lambda: all(one.is_loaded for one in all_of.credentials[1:]))
        assert [one.bearer(SECRET) for one in all_of.credentials[1:]] == [None, None]


@pytest.mark.parametrize("of_cluster", [False, True])
async def test_the_first_changes_wait_for_copies_on_the_node_of_the_owner_before(
    autojump_clock: object, of_cluster: bool
) -> None:
    """They ask that owner, not this one, and may be current for as long as any copy."""
    async with copies(of_cluster=of_cluster) as found:
        begun_s = trio.current_time()
        found.owned.put(ACCOUNT)
        await found.owned.spread()
        taken_s = trio.current_time() - begun_s
        if not of_cluster:
            assert taken_s < 1, "all copies there are have it"
            return
        assert COPY_LEASE_MS / 1000 <= taken_s < COPY_LEASE_MS / 1000 + 0.5
        begun_s = trio.current_time()
        found.owned.put(ACCOUNT)
        await found.owned.spread()
        assert trio.current_time() - begun_s < 1, "by then there is no such copy"


async def test_a_process_that_starts_reads_all_before_it_lets_anyone_in(
    autojump_clock: object,
) -> None:
    async with with_copies() as all_of:
        process = all_of.world.processes[1]
        calls = process.mesh.calls
        calls._listeners.clear()
        copied, copy = make_copy(process)
        assert not copied.is_loaded
        assert copied.bearer(SECRET) is None
        all_of.world.nursery.start_soon(copy.run)
        with trio.fail_after(10):
            await copy.loaded.wait()
        assert copied.bearer(SECRET) is not None
        assert isinstance(copied.sessions, CopiedSessions)
