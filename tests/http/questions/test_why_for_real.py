"""Five promises that look the same, PENDING, each stuck for another reason: each is told why.

A real server, with workers that poll, hang and die.
"""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.helpers.server import ServerProcess

FAR_MS = 4_102_444_800_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all cases, which have groups of their own."""
    with ServerProcess(
        tmp_path_factory.mktemp("why"), "--task-claim-timeout-ms", "3600000"
    ) as made:
        yield made


def ask(server: ServerProcess, method: str, path: str, body: object = None) -> Any:
    """The answer to a request that must be a good one."""
    status, content = server.request(method, path, body)
    assert status < 400, content
    return content


def create(server: ServerProcess, promise_id: str, **tags: str) -> None:
    """A promise, with tags whose names have the prefix of all such."""
    named = {f"resonate:{name}": text for name, text in tags.items()}
    ask(server, "POST", "/promises", {"id": promise_id, "timeout": FAR_MS, "tags": named})


@contextmanager
def connected(server: ServerProcess, group: str, name: str) -> Iterator[http.client.HTTPResponse]:
    """A worker that polls; it reads the first bytes, so that the server knows of it."""
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    connection.request("GET", f"/poll/{group}/{name}")
    response = connection.getresponse()
    response.readline()
    try:
        yield response
    finally:
        response.close()
        connection.close()


def claim(server: ServerProcess, promise_id: str, name: str, ttl_ms: int = 3_600_000) -> None:
    """Have a worker take a promise's task."""
    body = {"id": f"__invoke:{promise_id}", "counter": 1, "processId": name, "ttl": ttl_ms}
    ask(server, "POST", "/tasks/claim", body)


def until_reason(server: ServerProcess, promise_id: str, reason: str) -> Any:
    """Why it is pending, as soon as that is the reason; the server learns of streams in a while."""
    for _ in range(500):
        why = ask(server, "GET", f"/why/{promise_id}")
        if why["cause"]["reason"] == reason:
            return why
    raise AssertionError(why)


def test_a_dead_workers_lease(server: ServerProcess) -> None:
    create(server, "dead", invoke="poll://any@dead-group")
    with connected(server, "dead-group", "dead-worker"):
        claim(server, "dead", "dead-worker")
    why = until_reason(server, "dead", "holder-gone")
    assert why["sentence"].startswith(
        "The worker `dead-worker`, which holds the task of dead, is not connected, last heard from"
    )
    assert "another worker gets the task in 59 min" in why["sentence"]
    assert why["cause"]["holderConnected"] is False
    assert why["cause"]["task"]["processId"] == "dead-worker"
    assert why["next"]["what"] == "lease"
    assert why["next"]["at"] == why["cause"]["task"]["until"]


def test_a_busy_worker(server: ServerProcess) -> None:
    create(server, "busy", invoke="poll://any@busy-group")
    with connected(server, "busy-group", "busy-worker"):
        claim(server, "busy", "busy-worker")
        why = until_reason(server, "busy", "held")
    assert why["sentence"].startswith("The worker `busy-worker` is busy with busy, last heard from")
    assert why["cause"]["holderConnected"] is True


def test_a_group_nobody_listens_to(server: ServerProcess) -> None:
    create(server, "alone", invoke="poll://any@nobody-here")
    with connected(server, "somebody-there", "w"):
        why = until_reason(server, "alone", "no-listener")
    assert why["sentence"].startswith(
        "No worker listens to the group `nobody-here` (workers listen to "
    )
    assert "`somebody-there`" in why["sentence"]
    assert ", so the task of alone has waited for " in why["sentence"]
    assert why["cause"]["listeners"] == 0
    assert "somebody-there" in why["cause"]["connectedGroups"]
    assert why["next"]["what"] == "timeout"


def test_another_promise(server: ServerProcess) -> None:
    """Down over two promises to one for which nobody listens."""
    create(server, "order", invoke="poll://any@order-group")
    create(server, "order.pay", invoke="poll://any@order-group")
    create(server, "order.pay.bank", invoke="poll://any@bank-group")
    with connected(server, "order-group", "order-worker"):
        for root, leaf in (("order", "order.pay"), ("order.pay", "order.pay.bank")):
            claim(server, root, "order-worker")
            body = {
                "id": leaf,
                "promiseId": leaf,
                "rootPromiseId": root,
                "timeout": FAR_MS,
                "recv": "poll://any@order-group",
            }
            ask(server, "POST", "/callbacks", body)
            ask(server, "POST", "/tasks/complete", {"id": f"__invoke:{root}", "counter": 1})
        why = until_reason(server, "order", "no-listener")
    assert why["sentence"].startswith(
        "order waits for order.pay, which waits for order.pay.bank: no worker listens to the "
        "group `bank-group` ("
    )
    assert [link["id"] for link in why["path"]] == ["order.pay", "order.pay.bank"]
    assert why["awaits"] == ["order.pay"]
    assert why["cause"]["promiseId"] == "order.pay.bank"


def test_an_impossible_address(server: ServerProcess) -> None:
    create(server, "lost", invoke="nowhere-in-particular")
    why = until_reason(server, "lost", "undeliverable")
    assert why["sentence"].startswith(
        "The task of lost can never be sent: its receiver nowhere-in-particular is no usable "
        "address ("
    )


def test_a_receiver_that_refuses_connections(server: ServerProcess) -> None:
    """What is known of a push: the error, the attempts, the next try."""
    create(server, "pushed", invoke="http://127.0.0.1:1/tasks")
    why = until_reason(server, "pushed", "receiver-fails")
    assert why["sentence"].startswith(
        "The receiver http://127.0.0.1:1/tasks of the task of pushed fails ("
    )
    assert why["cause"]["task"]["failedCount"] >= 1
    assert why["cause"]["task"]["lastError"]
    assert why["next"]["what"] in ("retry", "timeout")


def test_a_stalled_task_is_sent_now(server: ServerProcess) -> None:
    """The wait for its next try, and for its receiver's, is over immediately."""
    create(server, "hurried", invoke="http://127.0.0.1:2/tasks")
    before = until_reason(server, "hurried", "receiver-fails")["cause"]["task"]["failedCount"]
    for _ in range(500):
        status, content = server.request("POST", "/tasks/retry", {"id": "__invoke:hurried"})
        assert status in (200, 403), content
        shown = ask(server, "GET", "/tasks/show/__invoke:hurried")
        if shown["failedCount"] >= before + 10:
            return
    raise AssertionError(shown)


def test_a_workflow_that_awaits_another(server: ServerProcess) -> None:
    """The same over the envelope protocol."""

    def envelope(kind: str, **data: object) -> Any:
        head = {"corrId": "1", "version": "2026-04-01"}
        answer = ask(server, "POST", "/", {"kind": kind, "head": head, "data": data})
        assert answer["head"]["status"] < 300, answer
        return answer["data"]

    made = envelope(
        "task.create",
        pid="flow-worker",
        ttl=3_600_000,
        action={
            "kind": "promise.create",
            "head": {"corrId": "2", "version": "2026-04-01"},
            "data": {
                "id": "flow",
                "timeoutAt": FAR_MS,
                "param": {},
                "tags": {"resonate:target": "poll://any@flow-group"},
            },
        },
    )
    create(server, "flow.child", target="poll://any@child-group")
    why = ask(server, "GET", "/why/flow")
    assert why["cause"]["reason"] == "holder-gone", "its worker has no stream"
    envelope(
        "task.suspend",
        id="flow",
        version=made["task"]["version"],
        actions=[
            {
                "kind": "promise.register_callback",
                "head": {"corrId": "3", "version": "2026-04-01"},
                "data": {"awaited": "flow.child", "awaiter": "flow"},
            }
        ],
    )
    why = until_reason(server, "flow", "no-listener")
    assert why["sentence"].startswith("flow waits for flow.child: no worker listens to the group")
    assert why["cause"]["task"]["kind"] == "envelope"
