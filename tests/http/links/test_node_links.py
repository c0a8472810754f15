"""Links between nodes over real sockets: clients of any node reach all groups."""

import socket
from pathlib import Path

import pytest
import trio
import trustme
from structlog.testing import capture_logs

from tests.http.sockets.test_link_sockets import LIMIT_S, Served, id_of
from tests.shards.guard.ends import SECRET
from tests.shards.mesh.world import until
from tests.shards.stage import FAR_MS
from troth.http.links.node_links import NodeLinks
from troth.http.sockets import link_sockets
from troth.shards.guard import guarded_end
from troth.shards.guard.handshake import encode_call
from troth.shards.mesh.owners import Owner

from .certificates import make_files
from .nodes import GROUPS_COUNT, HOST, cluster


async def create(served: Served, name: str) -> int:
    """Create a promise; return the status."""
    status, _ = await served.ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
    return status


async def has_ended(stream: trio.SocketStream) -> bool:
    """Wait for the end of a connection, or for something that it says."""
    try:
        return not await stream.receive_some()
    except trio.BrokenResourceError:
        return True  # it had not read all


@pytest.mark.parametrize("is_secret", [False, True], ids=["plain", "TLS"])
async def test_clients_of_any_node_reach_all_groups(tmp_path: Path, is_secret: bool) -> None:
    """Two of the three processes share a node: its door passes connections on."""
    tls = None
    if is_secret:
        authority = trustme.CA()
        tls = make_files(tmp_path / "certificates", authority, authority, HOST).load()
    async with cluster(tmp_path, tls) as all_of:
        await all_of.start("north", 0)
        await all_of.start("south", 1)
        await all_of.start("south", 2)
        for group in range(GROUPS_COUNT):
            all_of.tell_all(group)
        await all_of.until_linked()
        for home in range(GROUPS_COUNT):
            for number, served in all_of.served.items():
                assert await create(served, id_of(home, f"order-{number}", GROUPS_COUNT)) == 201
        for served in all_of.served.values():
            status, page = await served.ask("GET", "/promises?id=order-*&limit=100")
            assert (status, len(page["promises"])) == (200, 9)
        assert (len(all_of.strangers), all_of.strangers.refused_count) == (0, 0)


@pytest.mark.slow
async def test_strangers_get_nowhere_and_disturb_no_one(tmp_path: Path) -> None:
    """A node with another secret, a browser, and one that calls and then says nothing."""
    with capture_logs() as logs:
        async with cluster(tmp_path) as all_of:
            await all_of.start("north", 0)
            await all_of.start("south", 1)
            intruder = await all_of.start("west", 2, secret=SECRET + b"?")
            for group in range(GROUPS_COUNT):
                all_of.tell_all(group)
            port = all_of.owners[1].port
            with trio.fail_after(LIMIT_S):
                async with await trio.open_tcp_stream(HOST, port) as browser:
                    await browser.send_all(b"GET / HTTP/1.1\r\nHost: south\r\n\r\n")
                    assert await has_ended(browser)
                async with await trio.open_tcp_stream(HOST, port) as silent:
                    await silent.send_all(encode_call(1))
                    challenge = await silent.receive_some()
                    assert 32 < len(challenge) < 50
                    assert await has_ended(silent), "its time is over"
                north, south = (all_of.served[k].process.mesh for k in (0, 1))
                await until(lambda: north.links[1].is_up and south.links[0].is_up)
                await until(lambda: all_of.strangers.refused_count > 3)
            assert await create(all_of.served[0], id_of(1, "order", GROUPS_COUNT)) == 201
            assert not north.links[2].is_up
            assert not any(link.is_up for link in intruder.process.mesh.links.values())
    refused = [one for one in logs if one["event"] == "a link was refused"]
    assert len(refused) == 1, "however often they come"
    assert not [one for one in logs if one["log_level"] == "error"]


async def test_a_group_moves_to_another_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as all_of:
        await all_of.start("north", 0)
        before = await all_of.start("south", 1)
        await all_of.start("north", 2)
        for group in range(GROUPS_COUNT):
            all_of.tell_all(group)
        await all_of.until_linked()
        name = id_of(1, "order", GROUPS_COUNT)
        assert await create(all_of.served[0], name) == 201
        after = await all_of.start("west", 1, epoch=2)
        with trio.fail_after(LIMIT_S):  # it says who it is; where it is they hear from the map
            north = all_of.served[0].process.mesh
            await until(lambda: north.owners.epoch_of(1) == 2)
            all_of.tell_all(1)
            await until(lambda: north.links[1].is_up)
            await until(lambda: not before.process.mesh.links[0].is_up)
        assert north.links[1].incarnation == 2
        assert await create(all_of.served[0], name) == 201, "its log here is another"
        assert any(name in state.promises for state in after.process.shards.states())
        before.listener.cut()


async def test_an_owner_that_hangs_is_not_waited_for_when_there_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_end, "HANDSHAKE_LIMIT_S", 600.0)
    async with cluster(tmp_path) as all_of:
        await all_of.start("north", 0)
        await all_of.start("north", 2)
        for group in (0, 2):
            all_of.tell_all(group)
        with socket.create_server((HOST, 0)) as silent, trio.fail_after(LIMIT_S):
            all_of.owners[1] = Owner("south", HOST, silent.getsockname()[1], 1)
            all_of.tell_all(1)
            waiting, _ = await trio.to_thread.run_sync(silent.accept)
            with waiting:
                await all_of.start("west", 1, epoch=2)
                north = all_of.served[0].process.mesh
                north.owners.places = {"west": all_of.place("west")}
                await until(lambda: north.links[1].is_up)
        assert north.links[1].incarnation == 2


async def test_the_next_owner_is_tried_at_once_however_long_the_last_one_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_sockets, "_RETRY_FIRST_S", 2 * LIMIT_S)
    monkeypatch.setattr(link_sockets, "_RETRY_LIMIT_S", 2 * LIMIT_S)
    async with cluster(tmp_path) as all_of:
        north = await all_of.start("north", 0)
        with socket.create_server((HOST, 0)) as listening:
            port = listening.getsockname()[1]
            north.process.mesh.owners.learn(1, Owner("gone", HOST, port, 1))
            listening.settimeout(LIMIT_S)
            connected, _ = await trio.to_thread.run_sync(listening.accept)
            connected.close()
        await trio.sleep(0.2)  # it has noticed
        await all_of.start("south", 1, epoch=2)
        all_of.tell_all(1)
        with trio.fail_after(LIMIT_S):
            await until(lambda: north.process.mesh.links[1].is_up)


async def test_an_owner_that_was_started_again_keeps_the_link_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reached where the one before it was, and found by the book only later."""
    tried: list[tuple[str, int]] = []
    connect = NodeLinks.connect

    async def noted(nodes: NodeLinks, owner: Owner, group: int) -> socket.socket | None:
        tried.append((nodes.own.node, owner.epoch))
        return await connect(nodes, owner, group)

    monkeypatch.setattr(NodeLinks, "connect", noted)
    async with cluster(tmp_path) as all_of:
        north = await all_of.start("north", 0)
        del all_of.owners[0]  # so the new one does not come to north by itself
        await all_of.start("south", 1, epoch=5)
        owners, link = north.process.mesh.owners, north.process.mesh.links[1]
        after = all_of.owners[1]
        owners.places = {"south": (after.host, after.port)}
        owners.learn(1, Owner("south", after.host, after.port, 4))
        with trio.fail_after(LIMIT_S):
            await until(lambda: link.is_up)
        assert owners.of(1) == after, "it has proved who it is"
        all_of.tell_all(1)
        await trio.sleep(0.3)
        assert (link.is_up, link.incarnation) == (True, 5)
    assert [epoch for node, epoch in tried if node == "north"] == [4]


async def test_there_are_no_further_links_when_a_process_has_given_its_last_answers(
    tmp_path: Path,
) -> None:
    """Its lanes have ended, in whose passes links are served."""
    async with cluster(tmp_path) as all_of:
        north = await all_of.start("north", 0)
        south = await all_of.start("south", 1)
        all_of.tell_all(0)
        all_of.tell_all(1)
        with trio.fail_after(LIMIT_S):
            await until(lambda: south.process.mesh.links[0].is_up)
        north.links.end()
        for _ in range(20):
            await trio.sleep(0.02)
            assert not north.links._sockets
