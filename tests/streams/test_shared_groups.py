"""Nodes of a cluster that share its groups: each takes any request, and takes over from others."""

import contextlib
import itertools
import os
import re
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.clients.listening import EventStream
from tests.conformance.replaying import replay, replay_scenes
from tests.deploy.cluster_world import Front, haproxy
from tests.helpers.nats import NatsServer
from tests.helpers.postgres import PostgresServer
from tests.helpers.server import ServerDiedError, ServerProcess, http_json
from tests.helpers.shared_nodes import SharedNodes, node_arguments, shared_nodes, until_served
from tests.http.processes.clients import FAR_MS, Client, ids_by_group
from tests.proofs.open_loop import load, stop
from tests.streams.functions_over_nodes import tasks_outlive_an_owner
from troth.cli.supervising.restart import asked
from troth.persistence.streams.sharing import Wishes
from troth.shards.mesh.homes import HomeFinder

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0
_NO_ANSWER = (OSError, HTTPException)
_databases = itertools.count()


def _database(postgres: PostgresServer) -> str:
    name = f"shared{next(_databases)}"
    postgres.query(f"CREATE DATABASE {name}")
    return postgres.url.replace("///postgres", f"///{name}")


class Load:
    """Creates promises through all nodes, whichever answer; `made` are those acknowledged."""

    def __init__(self, nodes: SharedNodes) -> None:
        self.made: list[str] = []
        self.refused: set[int] = set()
        self._word = secrets.token_hex(4)
        self._is_over = False
        self._threads = [
            threading.Thread(target=self._run, args=(name, node))
            for name, node in nodes.nodes.items()
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, node: ServerProcess) -> None:
        for number in itertools.count():
            if self._is_over:
                return
            identifier = f"{self._word}-{name}{number}x"
            try:
                status, _ = node.request("POST", "/promises", {"id": identifier, "timeout": FAR_MS})
            except _NO_ANSWER:
                time.sleep(0.02)
                continue
            if status == 201:
                self.made.append(identifier)
            else:
                self.refused.add(status)

    def wait_for_more(self, more_count: int = 30) -> None:
        """Wait until so many more were acknowledged."""
        wanted_count = len(self.made) + more_count
        ends_s = time.monotonic() + PATIENCE_S
        while len(self.made) < wanted_count:
            assert time.monotonic() < ends_s, "nothing is acknowledged any more"
            time.sleep(0.01)


class Reader:
    """Reads a promise through a proxy all the time; `statuses` are those of the answers."""

    def __init__(self, front: Front, identifier: str) -> None:
        self.statuses: Counter[int] = Counter()
        self.not_of_troth: list[object] = []
        self._url = f"{front.url}/promises"
        self._identifier = identifier
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Reader":
        made = {"id": self._identifier, "timeout": FAR_MS}
        assert http_json("POST", self._url, made)[0] == 201
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.02):
            status, answer = http_json("GET", f"{self._url}/{self._identifier}")
            self.statuses[status] += 1
            if not isinstance(answer, dict):
                self.not_of_troth.append(answer)


def _assert_all_there(node: ServerProcess, ids: list[str]) -> None:
    with contextlib.closing(Client(node)) as client:
        missing = [one for one in ids if _answered(client, f"/promises/{one}") != 200]
    assert not missing, (len(missing), len(ids), missing[:5])


def _answered(client: Client, path: str) -> int:
    """Return how a path is answered; while it is refused for the moment, it is asked again."""
    ends_s = time.monotonic() + PATIENCE_S
    while (status := client.ask("GET", path)[0]) == 503 and time.monotonic() < ends_s:
        time.sleep(0.05)
    return status


def _status(node: ServerProcess, identifier: str) -> int | None:
    """Return how a promise is answered; None if nobody does."""
    with contextlib.suppress(*_NO_ANSWER):
        return node.request("GET", f"/promises/{identifier}")[0]
    return None


def _until_answers(node: ServerProcess, identifier: str) -> float:
    """Wait until a promise can be read; return after how long."""
    begun_s = time.monotonic()
    while True:
        if _status(node, identifier) == 200:
            return time.monotonic() - begun_s
        assert time.monotonic() < begun_s + PATIENCE_S, node.log()
        time.sleep(0.02)


def test_three_nodes_serve_and_lose_one(
    tmp_path: Path, postgres_server_of_session: PostgresServer
) -> None:
    """All in one test, since it takes long until three nodes have a group each."""
    url = _database(postgres_server_of_session)
    with shared_nodes(tmp_path, url, ("one", "two", "three"), 3) as three:
        _any_node_takes_any_request(three)
        _vectors_and_scenes_hold_though_each_request_goes_to_another_node(three, tmp_path)
        _a_worker_gets_the_messages_of_all_groups_at_any_node(three)
        with haproxy(tmp_path, three.nodes) as front:
            until_served(f"{front.url}/ready")
            _a_node_that_is_killed_under_load_loses_its_groups_to_the_others(three, front)
        # Last, since from now on only those with an account are answered.
        tasks_outlive_an_owner(three, tmp_path, comes_back=False)


def _any_node_takes_any_request(three: SharedNodes) -> None:
    clients = [Client(node) for node in three.nodes.values()]
    ids = [one for group in ids_by_group("order", 2) for one in group]
    for number, identifier in enumerate(ids):
        made = {"id": identifier, "timeout": FAR_MS}
        assert clients[number % 3].ask("POST", "/promises", made)[0] == 201
    for client in clients:
        for identifier in ids:
            assert client.ask("GET", f"/promises/{identifier}")[0] == 200
        status, found = client.envelope("promise.get", id=ids[-1])
        assert (status, found["promise"]["id"]) == (200, ids[-1])
        _, page = client.ask("GET", f"/promises?id={ids[0].rpartition('-')[0]}*")
        assert sorted(one["id"] for one in page["promises"]) == sorted(ids)
    for number, identifier in enumerate(ids):
        path = f"/promises/{identifier}"
        assert clients[(number + 1) % 3].ask("PATCH", path, {"state": "RESOLVED"})[0] == 201
        assert clients[(number + 2) % 3].ask("GET", path)[1]["state"] == "RESOLVED"
    for client in clients:
        client.close()


def _vectors_and_scenes_hold_though_each_request_goes_to_another_node(
    three: SharedNodes, directory: Path
) -> None:
    """A part of what `python -m tests.proofs.cluster_vectors` replays."""
    with haproxy(directory, three.nodes, "roundrobin") as front:
        until_served(f"{front.url}/ready", f"{front.poll_url}/ping")
        for part in ("task/", "callback/", "deliver"):
            assert _are_all(replay(front, "--only", part), "vectors match")
        assert _are_all(replay_scenes(front, "--only", "fence:"), "scenes held")


def _are_all(said: str, what: str) -> bool:
    """Return whether a line says of several that all of them are as recorded."""
    found = re.match(rf"(\d+) of (\d+) {what}", said)
    return found is not None and found[1] == found[2] != "0"


def _a_worker_gets_the_messages_of_all_groups_at_any_node(three: SharedNodes) -> None:
    finder = HomeFinder(3)
    names = (f"workers-{secrets.token_hex(4)}" for _ in itertools.count())
    group = next(one for one in names if finder.of_group(one) == 0)
    for node in three.nodes.values():
        with EventStream(f"{node.url}/poll/{group}/one") as worker:
            tasks = set()
            ids = [one for ids in ids_by_group("work") for one in ids]
            for identifier, other in zip(ids, three.nodes.values(), strict=True):
                tags = {"resonate:invoke": f"poll://any@{group}"}
                body = {"id": identifier, "timeout": FAR_MS, "tags": tags}
                assert other.request("POST", "/promises", body)[0] == 201
                tasks.add(f"__invoke:{identifier}")
            assert {worker.next()["task"]["id"] for _ in tasks} == tasks
            for task_id in tasks:
                claim = {"id": task_id, "counter": 1, "processId": "one", "ttl": 60_000}
                assert node.request("POST", "/tasks/claim", claim)[0] == 201
                done = {"id": task_id, "counter": 1}
                assert node.request("POST", "/tasks/complete", done)[0] in (200, 201)


def _a_node_that_is_killed_under_load_loses_its_groups_to_the_others(
    three: SharedNodes, front: Front
) -> None:
    """Also group 0, whose owner has the accounts; then it comes back, and gets one again.

    In the meantime what lives in other groups can be read through HAProxy.
    """
    owners = three.until_spread(*three.nodes)
    gone = owners[0]
    killed = three.nodes[gone]
    others = [name for name in three.nodes if name != gone]
    of_group, *of_others = ids_by_group("kept")
    reader = Reader(front, of_others[0][0])
    with Load(three) as load, reader:
        load.wait_for_more()
        assert killed.request("POST", "/promises", {"id": of_group[0], "timeout": FAR_MS})[0] == 201
        killed.kill9()
        away_s = max(_until_answers(three.nodes[name], of_group[0]) for name in others)
        load.wait_for_more()
        three.until_spread(*others)
    assert reader.statuses[200] > 0
    assert not reader.not_of_troth, "HAProxy has no node for a group that has an owner"
    for name in others:
        _assert_all_there(three.nodes[name], load.made)
    assert load.refused <= {503}
    print(f"answers again after {away_s:.2f} s")
    assert away_s < PATIENCE_S
    with Load(three) as more:
        killed.start()
        three.until_spread(*three.nodes)
        more.wait_for_more()
    three.until_ready(*three.nodes)
    assert more.refused <= {503}
    for node in three.nodes.values():
        _assert_all_there(node, load.made[-50:] + more.made)


@pytest.fixture(params=["postgres", "nats"])
def place(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    """Return where there is no cluster yet, and the monitor of NATS."""
    if request.param == "postgres":
        return _database(request.getfixturevalue("postgres_server_of_session")), None
    nats: NatsServer = request.getfixturevalue("nats_server_of_session")
    return f"{nats.url}/shared{next(_databases)}", nats.monitor_url


def test_two_nodes_halt_stop_and_share_accounts(
    tmp_path: Path, place: tuple[str, str | None]
) -> None:
    url, monitor = place
    with shared_nodes(tmp_path, url, "ab", 2, monitor) as two:
        first, second = (two.nodes[name] for name in "ab")
        keys = {(node.data / "admin.key").read_text() for node in two.nodes.values()}
        assert len(keys) == 1, "it follows from the cluster's secret"
        same_name = node_arguments(url, tmp_path / "cluster.secret", "a", 1)
        with pytest.raises(ServerDiedError, match="has a server named a already, at http"):
            ServerProcess(tmp_path / "other", *same_name).start()

        with Load(two) as load:
            load.wait_for_more()
            halted = [second.process_id, *second.child_ids()]
            for process_id in halted:
                os.kill(process_id, signal.SIGSTOP)
            two.until_spread("a")
            for process_id in reversed(halted):  # the one that waits for the others at last
                os.kill(process_id, signal.SIGCONT)
            load.wait_for_more()
            two.until_spread("a", "b")
        two.until_ready("a", "b")
        assert "another node owns the group" in second.log()
        for node in two.nodes.values():
            _assert_all_there(node, load.made)

        _groups_go_where_they_are_wished_under_load(two)
        _a_node_is_restarted_under_load(two)

        key = {"Authorization": f"Bearer {keys.pop().strip()}"}
        assert first.request("POST", "/admin/accounts", {"name": "shop"}, key)[0] == 201
        wanted = {"account": "shop", "name": "app", "scopes": ["promises:read"]}
        status, token = second.request("POST", "/admin/tokens", wanted, key)
        assert status == 201, token
        bearer = {"Authorization": f"Bearer {token['token']}"}
        path = f"/promises/{load.made[0]}"
        for node in two.nodes.values():
            assert node.request("GET", path)[0] == 401
            assert node.request("GET", path, headers=bearer)[0] == 200
        assert first.request("DELETE", f"/admin/tokens/{token['id']}", headers=key)[0] == 204
        for node in two.nodes.values():
            assert node.request("GET", path, headers=bearer)[0] == 401

        assert first.terminate() == 0, first.log()
        two.until_spread("b")
        two.until_ready("b")
        assert second.request("GET", path)[0] == 401
        status, accounts = second.request("GET", "/admin/accounts", headers=key)
        assert status == 200, accounts
        assert [one["name"] for one in accounts] == ["shop"]


def _groups_go_where_they_are_wished_under_load(two: SharedNodes) -> None:
    """One node is drained; then it gets the group that it did not have."""
    owners = two.until_spread("a", "b")
    (of_first,) = (group for group, node in owners.items() if node == "a")
    with Load(two) as load:
        load.wait_for_more()
        two.wish(Wishes(frozenset("b")))
        two.until_owners({0: "a", 1: "a"})
        load.wait_for_more()
        _until(lambda: two.nodes["b"].request("GET", "/ready")[0] == 503)
        _until(lambda: _status(two.nodes["b"], load.made[0]) == 200)  # it passes requests on
        two.wish(Wishes(placed={of_first: "b"}))
        two.until_owners({of_first: "b", 1 - of_first: "a"})
        load.wait_for_more()
    two.until_ready("a", "b")
    assert load.refused <= {503}
    for node in two.nodes.values():
        _assert_all_there(node, load.made)


def _a_node_is_restarted_under_load(two: SharedNodes) -> None:
    """Its connections wait for the next process, which has the group; see the proof."""
    node, owners, before = two.nodes["a"], two.owners(), two.nodes["a"].child_ids()
    clients = load(lambda: [node], f"restart-{secrets.token_hex(4)}", 4, 40.0)
    try:
        answers = list(asked(node.data, {"ask": "restart"}))
    finally:
        seen = stop(clients)
    assert [one.get("restarted") for one in answers] == [0, 1, None]
    assert answers[-1] == {"done": True}
    assert "the next process reads the group of the old one" in node.log(), "it owns one"
    assert set(before).isdisjoint(node.child_ids())
    assert len(seen) > 20
    unexpected = [one for one in seen if not one.is_expected]
    if two.owners() == owners:
        assert unexpected == []
    else:  # on a busy machine, the other node had reason to take the group over
        assert {one.status for one in unexpected} <= {503}
    two.until_spread("a", "b")
    two.until_ready("a", "b")


def _until(is_true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < ends_s, "it does not become true"
        time.sleep(0.05)
