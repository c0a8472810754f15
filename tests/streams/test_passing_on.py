"""A node of a cluster that serves no group: it takes any request, and passes it on."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.clients.listening import EventStream
from tests.helpers.postgres import PostgresServer
from tests.helpers.server import ServerProcess
from tests.helpers.shared_nodes import SharedNodes, shared_nodes
from tests.http.processes.clients import FAR_MS, Client
from troth.persistence.streams.sharing import Wishes

pytestmark = pytest.mark.slow

_ENDED = ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")
_ENVELOPES = {"content-type": "application/json"}


def _create(identifier: str) -> bytes:
    head = {"corrId": identifier, "version": "2026-04-01"}
    data = {"id": identifier, "timeoutAt": FAR_MS, "param": {}, "tags": {}}
    return json.dumps({"kind": "promise.create", "head": head, "data": data}).encode()


class Envelopes:
    """Creates promises by `POST /` at one node, all the time, on a connection that is kept."""

    def __init__(self, node: ServerProcess, word: str) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.longest_s = 0.0
        self._address = urlsplit(node.url).netloc
        self._word = word
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Envelopes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        number = 0
        while not self._is_over.wait(0.01):
            number += 1
            begun_s = time.monotonic()
            try:
                connection.request("POST", "/", _create(f"{self._word}{number}"), _ENVELOPES)
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
                if answer.will_close:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.statuses[type(error).__name__] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - begun_s)
        connection.close()


def test_a_node_without_a_group_takes_any_request(
    tmp_path: Path, postgres_server_of_session: PostgresServer
) -> None:
    postgres_server_of_session.query("CREATE DATABASE passing")
    url = postgres_server_of_session.url.replace("///postgres", "///passing")
    with shared_nodes(tmp_path, url, "ab", 2) as two:
        two.wish(Wishes(placed={0: "a", 1: "a"}))
        two.until_owners({0: "a", 1: "a"})
        _all_is_answered_at_once(two)
        _a_worker_gets_its_messages(two)
        _groups_go_to_it_while_it_is_asked(two)
        _the_owner_is_killed(two)


def _groups_go_to_it_while_it_is_asked(two: SharedNodes) -> None:
    """Then the other node has none."""
    with (
        Envelopes(two.nodes["a"], "moved-a") as at_owner,
        Envelopes(two.nodes["b"], "moved-b") as at_other,
    ):
        time.sleep(0.5)
        two.wish(Wishes(placed={0: "b", 1: "b"}))
        two.until_owners({0: "b", 1: "b"})
        time.sleep(0.5)
    for one in (at_owner, at_other):
        assert {*one.statuses} <= {200, *_ENDED}
        assert one.statuses.total() - one.statuses[200] <= 2, "idle connections ended"
        assert one.longest_s < 10


def _all_is_answered_at_once(two: SharedNodes) -> None:
    client = Client(two.nodes["b"])
    begun_s = time.monotonic()
    long = {"id": "long", "timeout": FAR_MS, "param": {"data": "eA" * 300_000}}
    assert client.ask("POST", "/promises", {"id": "one", "timeout": FAR_MS})[0] == 201
    took_s = [time.monotonic() - begun_s]
    for method, path, body in (
        ("GET", "/promises/one", None),
        ("POST", "/promises", long),
        ("GET", "/promises/one", None),
        ("GET", "/health", None),
    ):
        begun_s = time.monotonic()
        assert client.ask(method, path, body)[0] in (200, 201)
        took_s.append(time.monotonic() - begun_s)
    assert client.envelope("promise.get", id="one")[0] == 200
    assert sum(took_s) < 20, took_s
    client.close()
    assert two.nodes["a"].request("GET", "/promises/one")[0] == 200


def _a_worker_gets_its_messages(two: SharedNodes) -> None:
    with EventStream(f"{two.nodes['b'].url}/poll/workers/one") as worker:
        body = {"id": "work", "timeout": FAR_MS, "tags": {"resonate:invoke": "poll://any@workers"}}
        assert two.nodes["a"].request("POST", "/promises", body)[0] == 201
        assert worker.next()["task"]["id"] == "__invoke:work"


def _the_owner_is_killed(two: SharedNodes) -> None:
    """What the other node had passed on is asked again, of itself, when it has the group."""
    gone = two.nodes["b"]
    with Envelopes(two.nodes["a"], "killed-") as clients:
        time.sleep(0.5)
        for process_id in gone.child_ids():
            os.kill(process_id, signal.SIGSTOP)
        time.sleep(0.2)
        gone.kill9()
        two.until_owners({0: "a", 1: "a"})
        time.sleep(0.5)
    assert {*clients.statuses} == {200}
    assert 1 < clients.longest_s < 40
