"""What later versions of the API have added, as their clients use it, over plain HTTP.

Each test plays a client of such a version against a real server: it follows links literally, sends
the headers that its SDK would send, and looks only at what comes back.
"""

import base64
import http.client
import itertools
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pytest

from tests.helpers.server import ServerProcess, http_json

from .listening import EventStream, PushTarget, now_ms

FAR: Final = 9_999_999_999_999
LEASE_MS: Final = 60_000
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACESTATE: Final = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    """A name nobody else uses, since all tests here share one server."""
    return f"additions-{next(_numbers)}"


def create(
    server: ServerProcess, promise_id: str, headers: Mapping[str, str] | None = None, **tags: str
) -> tuple[int, Any]:
    """Create a promise. `invoke` and `delay` are tags of the API, written here without prefix."""
    body: dict[str, object] = {"id": promise_id, "timeout": FAR}
    if tags:
        body["tags"] = {f"resonate:{key}": value for key, value in tags.items()}
    return server.request("POST", "/promises", body, headers)


def create_claimed(server: ServerProcess, promise_id: str, worker: str, receiver: str) -> Any:
    """Create a promise whose task `worker` holds; return the task."""
    status, answer = server.request(
        "POST",
        "/promises/task",
        {
            "promise": {
                "id": promise_id,
                "timeout": FAR,
                "tags": {"resonate:invoke": receiver},
            },
            "task": {"processId": worker, "ttl": LEASE_MS},
        },
    )
    assert status == 201, answer
    return answer["task"]


def claim(
    server: ServerProcess, task: Mapping[str, Any], worker: str, ttl_ms: int = LEASE_MS
) -> tuple[int, Any]:
    """Claim a task as `worker`."""
    body = {"id": task["id"], "counter": task["counter"], "processId": worker, "ttl": ttl_ms}
    return server.request("POST", "/tasks/claim", body)


def fence(task: Mapping[str, Any], *, counter: int | None = None) -> dict[str, str]:
    """The headers by which a worker says that it acts as the holder of a task."""
    return {"Task-Id": task["id"], "Task-Counter": str(counter or task["counter"])}


def code(answer: Any) -> int:
    """The error code of an answer."""
    return int(answer["error"]["code"])


def read(server: ServerProcess, promise_id: str) -> tuple[int, Any]:
    """Read a promise."""
    return server.request("GET", f"/promises/{quote(promise_id, safe='')}")


# --- waiting for a promise ------------------------------------------------------------------------


def test_a_callback_is_made_by_the_promise_in_the_path(
    shared_server: ServerProcess, name: str
) -> None:
    root, leaf = f"{name}/root", f"{name}/leaf"
    create(shared_server, root)
    create(shared_server, leaf)
    path = f"/promises/callback/{quote(leaf, safe='')}"
    body = {"rootPromiseId": root, "timeout": FAR, "recv": f"poll://any@{name}/w"}

    status, answer = shared_server.request("POST", path, body)
    again = shared_server.request("POST", path, body)
    of_itself = shared_server.request("POST", path, {**body, "rootPromiseId": leaf})
    of_nothing = shared_server.request("POST", f"/promises/callback/{name}-none", body)

    assert status == 201
    assert answer["callback"]["id"] == f"__resume:{root}:{leaf}"
    assert answer["callback"]["promiseId"] == leaf
    assert answer["callback"]["rootPromiseId"] == root
    assert answer["promise"]["state"] == "PENDING"
    assert (again[0], again[1]["callback"]) == (200, None)
    assert (of_itself[0], code(of_itself[1])) == (400, 40001)
    assert (of_nothing[0], code(of_nothing[1])) == (404, 40400)

    with EventStream(f"{shared_server.poll_url}/{name}/w") as stream:
        shared_server.request("PATCH", f"/promises/{leaf}", {"state": "RESOLVED"})
        message = stream.next()

    assert message["type"] == "resume"
    assert message["task"]["id"] == f"__resume:{root}:{leaf}"
    assert message["task"]["rootPromiseId"] == root
    status, claimed = claim(shared_server, message["task"], "w")
    assert status == 201
    assert claimed["promises"]["root"]["id"] == root
    assert claimed["promises"]["leaf"]["data"]["state"] == "RESOLVED"


def test_a_subscription_is_made_by_the_promise_in_the_path(
    shared_server: ServerProcess, name: str
) -> None:
    promise = f"{name}/p"
    create(shared_server, promise)
    path = f"/promises/subscribe/{promise}"
    body = {"id": "s", "timeout": FAR, "recv": f"poll://uni@{name}/w"}

    status, answer = shared_server.request("POST", path, body)
    again = shared_server.request("POST", path, body)
    of_nothing = shared_server.request("POST", f"/promises/subscribe/{name}-none", body)

    assert status == 201
    assert answer["callback"]["id"] == f"__notify:{promise}:s"
    assert answer["callback"]["rootPromiseId"] == promise
    assert (again[0], again[1]["callback"]) == (200, None)
    assert (of_nothing[0], code(of_nothing[1])) == (404, 40400)

    value = {"data": base64.b64encode(b'"done"').decode()}
    with EventStream(f"{shared_server.poll_url}/{name}/w") as stream:
        shared_server.request(
            "PATCH", f"/promises/{promise}", {"state": "REJECTED", "value": value}
        )
        message = stream.next()

    assert message["type"] == "notify"
    assert message["promise"]["id"] == promise
    assert (message["promise"]["state"], message["promise"]["value"]) == ("REJECTED", value)


@pytest.mark.parametrize("given_id", [{"id": " "}, {"Id": "any"}])
def test_the_old_path_takes_a_callback_whose_id_says_nothing(
    shared_server: ServerProcess, name: str, given_id: dict[str, str]
) -> None:
    create(shared_server, name)
    body = {"promiseId": name, "rootPromiseId": f"{name}-root", "timeout": FAR, "recv": "default"}

    status, answer = shared_server.request("POST", "/callbacks", {**given_id, **body})

    assert status == 201
    assert answer["callback"]["id"] == f"__resume:{name}-root:{name}"
    assert answer["callback"]["rootPromiseId"] == f"{name}-root"


# --- giving a task back ---------------------------------------------------------------------------


@pytest.mark.parametrize("by_link", [False, True])
def test_a_dropped_task_goes_out_again_at_once(
    shared_server: ServerProcess, name: str, by_link: bool
) -> None:
    def drop(task_id: str, counter: int) -> tuple[int, Any]:
        if by_link:
            return shared_server.request("GET", f"/tasks/drop/{task_id}/{counter}")
        return shared_server.request("POST", "/tasks/drop", {"id": task_id, "counter": counter})

    with EventStream(f"{shared_server.poll_url}/{name}/w") as stream:
        task = create_claimed(shared_server, name, "first", f"poll://any@{name}/w")
        wrong_counter = drop(task["id"], 2)
        assert stream.arrived() == []

        dropped_ms = now_ms()
        assert drop(task["id"], 1) == (201, None)
        message = stream.next()
        assert now_ms() - dropped_ms < 5_000

    assert (wrong_counter[0], code(wrong_counter[1])) == (403, 40307)
    assert (message["type"], message["task"]["id"]) == ("invoke", task["id"])
    assert message["task"]["counter"] == 2
    # Nobody holds it now, so there is nothing to give back.
    assert drop(task["id"], 2) == (200, None)
    unknown = drop(f"{task['id']}-none", 1)
    assert (unknown[0], code(unknown[1])) == (404, 40403)


# --- fencing --------------------------------------------------------------------------------------


def test_who_does_not_hold_the_task_changes_nothing(
    shared_server: ServerProcess, name: str
) -> None:
    task = create_claimed(shared_server, name, "holder", f"poll://any@{name}-nobody/w")
    leaf = f"{name}-leaf"
    create(shared_server, leaf)
    callback = {"rootPromiseId": name, "timeout": FAR, "recv": "default"}
    old_callback = {**callback, "id": "x", "promiseId": leaf}

    for headers in (
        fence(task, counter=2),
        {"Task-Id": f"{task['id']}-none", "Task-Counter": "1"},
        # A task that exists, in no worker's hands.
        {"Task-Id": f"__invoke:{name}-unclaimed", "Task-Counter": "1"},
    ):
        create(shared_server, f"{name}-unclaimed", invoke=f"poll://any@{name}-nobody/w")
        refused = [
            create(shared_server, f"{name}-child", headers),
            shared_server.request("PATCH", f"/promises/{leaf}", {"state": "RESOLVED"}, headers),
            shared_server.request("POST", f"/promises/callback/{leaf}", callback, headers),
            shared_server.request("POST", "/callbacks", old_callback, headers),
        ]
        assert [(status, code(answer)) for status, answer in refused] == [(412, 41200)] * 4

    assert read(shared_server, f"{name}-child")[0] == 404
    assert read(shared_server, leaf)[1]["state"] == "PENDING"

    # All of it works for the holder; 201 says that nothing of the above was done before.
    held = fence(task)
    assert create(shared_server, f"{name}-child", held)[0] == 201
    made = shared_server.request("POST", f"/promises/callback/{leaf}", callback, held)
    assert (made[0], made[1]["callback"]["rootPromiseId"]) == (201, name)
    completed = shared_server.request("PATCH", f"/promises/{leaf}", {"state": "RESOLVED"}, held)
    assert completed[0] == 201


def test_a_worker_whose_lease_was_handed_over_is_fenced(
    shared_server: ServerProcess, name: str
) -> None:
    with EventStream(f"{shared_server.poll_url}/{name}/w") as stream:
        create(shared_server, name, invoke=f"poll://any@{name}/w")
        first = stream.next()["task"]
        assert claim(shared_server, first, "first")[0] == 201
        assert create(shared_server, f"{name}-step-1", fence(first))[0] == 201

        assert shared_server.request("POST", "/tasks/drop", first)[0] == 201
        second = stream.next()["task"]

    # Between two holders nobody may act, not even by guessing the counter that comes next.
    assert code(create(shared_server, f"{name}-step-2", fence(first))[1]) == 41200
    assert code(create(shared_server, f"{name}-step-2", fence(second))[1]) == 41200
    assert claim(shared_server, second, "second")[0] == 201

    late = shared_server.request("PATCH", f"/promises/{name}", {"state": "REJECTED"}, fence(first))
    assert (late[0], code(late[1])) == (412, 41200)
    assert read(shared_server, name)[1]["state"] == "PENDING"
    assert create(shared_server, f"{name}-step-2", fence(second))[0] == 201
    done = shared_server.request("PATCH", f"/promises/{name}", {"state": "RESOLVED"}, fence(second))
    assert (done[0], done[1]["state"]) == (201, "RESOLVED")
    # The promise has ended its task, so the second worker holds nothing any more either.
    assert code(create(shared_server, f"{name}-step-3", fence(second))[1]) == 41200


def test_a_worker_whose_lease_has_run_out_is_fenced(
    shared_server: ServerProcess, name: str
) -> None:
    with EventStream(f"{shared_server.poll_url}/{name}/w") as stream:
        create(shared_server, name, invoke=f"poll://any@{name}/w")
        first = stream.next()["task"]
        claimed_ms = now_ms()
        assert claim(shared_server, first, "asleep", ttl_ms=300)[0] == 201
        second = stream.next()["task"]
        assert now_ms() - claimed_ms >= 300

    assert second["counter"] == 2
    late = shared_server.request("PATCH", f"/promises/{name}", {"state": "REJECTED"}, fence(first))
    assert (late[0], code(late[1])) == (412, 41200)
    assert claim(shared_server, second, "awake")[0] == 201
    assert create(shared_server, f"{name}-step", fence(first))[0] == 412
    assert create(shared_server, f"{name}-step", fence(second))[0] == 201
    assert read(shared_server, name)[1]["state"] == "PENDING"


def test_a_fence_holds_wherever_task_and_promise_are_kept(
    shared_server: ServerProcess, name: str
) -> None:
    task = create_claimed(shared_server, name, "holder", f"poll://any@{name}-nobody/w")
    children = [f"{name}-{number}" for number in range(32)]

    for child in children:
        assert create(shared_server, child, fence(task, counter=7))[0] == 412
        assert create(shared_server, child, fence(task))[0] == 201


# --- streams --------------------------------------------------------------------------------------


def test_the_api_port_serves_the_same_stream(shared_server: ServerProcess, name: str) -> None:
    with EventStream(f"{shared_server.url}/poll/{name}/w") as stream:
        create(shared_server, name, invoke=f"poll://uni@{name}/w")
        message = stream.next()
        assert (stream.status, stream.content_type) == (200, "text/event-stream")
        assert (message["type"], message["task"]["id"]) == ("invoke", f"__invoke:{name}")

        # It is one connection, whichever port it came by: the newer one takes its place.
        with EventStream(f"{shared_server.poll_url}/{name}/w") as newer:
            stream.wait_until_ended()
            create(shared_server, f"{name}-2", invoke=f"poll://uni@{name}/w")
            assert newer.next()["task"]["id"] == f"__invoke:{name}-2"


def test_uni_reaches_one_connection_and_any_prefers_it(
    shared_server: ServerProcess, name: str
) -> None:
    with EventStream(f"{shared_server.poll_url}/{name}/b") as other:
        # Only to `a`, which is not there: `b` must not get it, though it gets what comes later.
        create(shared_server, f"{name}-uni", invoke=f"poll://uni@{name}/a")
        for form in ("poll://any@{}/a", "poll://{}/a", "poll://any@{}", "poll://{}"):
            receiver = form.format(name)
            create(shared_server, f"{name}-{receiver}-1", invoke=receiver)
            assert other.next()["task"]["id"] == f"__invoke:{name}-{receiver}-1"

        with EventStream(f"{shared_server.poll_url}/{name}/a") as wanted:
            # It is tried at once when the connection comes, not when its back-off ends.
            assert wanted.next()["task"]["id"] == f"__invoke:{name}-uni"
            for form in ("poll://any@{}/a", "poll://{}/a"):
                receiver = form.format(name)
                for number in range(2, 6):
                    promise = f"{name}-{receiver}-{number}"
                    create(shared_server, promise, invoke=receiver)
                    assert wanted.next()["task"]["id"] == f"__invoke:{promise}"
            create(shared_server, f"{name}-last", invoke=f"poll://uni@{name}/b")
            assert other.next()["task"]["id"] == f"__invoke:{name}-last"
            assert wanted.arrived() == []


def test_a_notification_goes_to_the_connection_it_names(
    shared_server: ServerProcess, name: str
) -> None:
    def complete(promise: str, receiver: str) -> None:
        create(shared_server, promise)
        body = {"id": "s", "timeout": FAR, "recv": receiver}
        assert shared_server.request("POST", f"/promises/subscribe/{promise}", body)[0] == 201
        shared_server.request("PATCH", f"/promises/{promise}", {"state": "RESOLVED"})

    # Unlike a task, which another worker can do as well: news are for who has asked for them.
    named = [f"poll://{cast}{name}/b" for cast in ("uni@", "any@", "")]
    unnamed = [f"poll://{cast}{name}" for cast in ("any@", "")]
    with EventStream(f"{shared_server.poll_url}/{name}/a") as other:
        for receiver in (*named, *unnamed):
            complete(f"{name}-{receiver}", receiver)
        got = {other.next()["promise"]["id"] for _ in unnamed}
        assert got == {f"{name}-{receiver}" for receiver in unnamed}

        with EventStream(f"{shared_server.poll_url}/{name}/b") as wanted:
            got = {wanted.next()["promise"]["id"] for _ in named}
            assert got == {f"{name}-{receiver}" for receiver in named}
        assert other.arrived() == []


# --- delays ---------------------------------------------------------------------------------------


def test_a_delayed_task_goes_out_when_it_is_time(shared_server: ServerProcess, name: str) -> None:
    due_ms = now_ms() + 1_500
    with PushTarget() as target:
        create(shared_server, f"{name}-later", invoke=target.url, delay=str(due_ms))
        create(shared_server, f"{name}-now", invoke=target.url)
        create(shared_server, f"{name}-past", invoke=target.url, delay=str(due_ms - 100_000))
        create(shared_server, f"{name}-odd", invoke=target.url, delay="tomorrow")
        pushes = [target.next() for _ in range(4)]

    # A delay that is no time is ignored.
    undelayed = {f"__invoke:{name}-{which}" for which in ("now", "past", "odd")}
    assert {push.message["task"]["id"] for push in pushes[:3]} == undelayed
    assert pushes[3].message["task"]["id"] == f"__invoke:{name}-later"
    # Never early. Late by what a busy machine may take, not by a sweep's interval of a second.
    assert due_ms <= pushes[3].received_ms < due_ms + 900


# --- tracing --------------------------------------------------------------------------------------


def test_a_trace_is_handed_on(shared_server: ServerProcess, name: str) -> None:
    trace = {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
    with PushTarget() as target, EventStream(f"{shared_server.poll_url}/{name}/w") as stream:
        create(shared_server, f"{name}-push", trace, invoke=f"{target.url}/inbox")
        create(shared_server, f"{name}-poll", trace, invoke=f"poll://any@{name}/w")
        push, polled = target.next(), stream.next()

        create(shared_server, f"{name}-bare", invoke=f"{target.url}/inbox")
        bare_push = target.next()
        create(shared_server, f"{name}-bare-poll", invoke=f"poll://any@{name}/w")
        bare_polled = stream.next()

    assert push.path == "/inbox"
    assert {key: push.headers.get(key) for key in trace} == trace
    assert push.headers["content-type"] == "application/json"
    assert push.message["task"]["id"] == f"__invoke:{name}-push"
    assert polled["head"] == trace
    assert "traceparent" not in bare_push.headers
    assert "head" not in bare_polled


def test_a_trace_of_a_subscription_and_a_callback_is_handed_on(
    shared_server: ServerProcess, name: str
) -> None:
    trace = {"traceparent": TRACEPARENT}
    create(shared_server, name)
    receiver = f"poll://any@{name}/w"
    shared_server.request(
        "POST",
        f"/promises/subscribe/{name}",
        {"id": "s", "timeout": FAR, "recv": receiver},
        trace,
    )
    shared_server.request(
        "POST",
        f"/promises/callback/{name}",
        {"rootPromiseId": f"{name}-root", "timeout": FAR, "recv": receiver},
        trace,
    )
    with EventStream(f"{shared_server.poll_url}/{name}/w") as stream:
        shared_server.request("PATCH", f"/promises/{name}", {"state": "RESOLVED"})
        messages = [stream.next(), stream.next()]

    assert {message["type"]: message["head"] for message in messages} == {
        "notify": trace,
        "resume": trace,
    }


# --- links and names ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["plain", "with/slashes/1", "ü ?#&%2F+\"'<>/x"])
def test_links_in_messages_work_as_they_are(
    shared_server: ServerProcess, name: str, part: str
) -> None:
    promise = f"{name}/{part}"
    with EventStream(f"{shared_server.poll_url}/{name}/w") as stream:
        create(shared_server, promise, invoke=f"poll://any@{name}/w")
        message = stream.next()

    task, href = message["task"], message["href"]
    assert (task["id"], task["rootPromiseId"]) == (f"__invoke:{promise}", promise)
    assert href["base"] == shared_server.url
    assert all(link.startswith(f"{href['base']}/tasks/") for link in list(href.values())[1:])

    status, claimed = http_json("GET", href["claim"])
    assert (status, claimed["type"]) == (201, "invoke")
    root = claimed["promises"]["root"]
    assert (root["id"], root["data"]["id"]) == (promise, promise)
    assert http_json("GET", root["href"]) == (200, root["data"])

    assert http_json("GET", href["heartbeat"]) == (200, {"tasksAffected": 1})
    status, completed = http_json("GET", href["complete"])
    assert (status, completed["id"], completed["rootPromiseId"]) == (201, task["id"], promise)
    assert http_json("GET", href["heartbeat"]) == (200, {"tasksAffected": 0})


def test_a_task_says_whose_it_is_in_every_answer(shared_server: ServerProcess, name: str) -> None:
    task = create_claimed(shared_server, name, "holder", "default")
    status, completed = shared_server.request("POST", "/tasks/complete", task)

    assert task["rootPromiseId"] == name
    assert (status, completed["rootPromiseId"]) == (201, name)


# --- the server itself ----------------------------------------------------------------------------


def test_the_server_says_that_it_is_there_and_what_it_speaks(shared_server: ServerProcess) -> None:
    assert shared_server.request("GET", "/ping") == (200, {"status": "ok"})
    for method, path in (
        ("GET", "/ping"),
        ("GET", "/promises/nothing-of-this-name"),
        ("GET", "/promises?id=nothing-of-this-name"),
        ("POST", "/promises"),
        ("GET", "/tasks/claim/nothing-of-this-name/1"),
    ):
        address = urlsplit(shared_server.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            response.read()
        finally:
            connection.close()
        assert response.headers["Resonate-Version"] == "0.8.2", path
