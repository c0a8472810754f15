"""Whatever becomes of a request to `POST /`, its answer is an envelope, with the same status."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.server import ServerProcess
from tests.http.admin.test_accounts import new_account, operator
from tests.http.client import running
from tests.http.envelope.conversation import VERSION, Conversation, checked_envelope
from tests.proofs.corpus import BODIES, BROKEN_HTTP
from tests.proofs.wire import Wire, exchange
from troth.core.codes import Code
from troth.http.api.context import Readiness
from troth.http.api.dispatch import START_WAIT_S
from troth.http.settings.settings import Settings

GET: Final = {
    "kind": "promise.get",
    "head": {"corrId": "c", "version": VERSION},
    "data": {"id": "nothing"},
}
HEAD: Final = b"POST / HTTP/1.1\r\nHost: x\r\n"
BODY: Final = json.dumps(GET).encode()

_TO_THE_ROOT: Final = {
    name: content.replace(b"POST /promises", b"POST /").replace(b"GET /promises/x", b"POST /")
    for name, content in BROKEN_HTTP.items()
}
MALFORMED: Final = {
    name: content for name, content in _TO_THE_ROOT.items() if content.startswith(b"POST / ")
}


@pytest.fixture(scope="module", params=["--hot-lane", "--no-hot-lane"])
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ServerProcess]:
    """A server on the lane, and one off it."""
    directory: Path = tmp_path_factory.mktemp("envelopes")
    with ServerProcess(directory, request.param) as process:
        yield process


# --- what never becomes a request -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_answered_with_an_envelope(server: ServerProcess, name: str) -> None:
    with Wire(server.url) as wire:
        wire.send(MALFORMED[name])
        answer = wire.answer()

    assert answer.status >= 400
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert checked_envelope(answer.status, answer.body, "unknown", "0").text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        (b"Content-Length: 99999999\r\n", b"", 413),
        (b"Content-Encoding: gzip\r\nContent-Length: 2\r\n", b"{}", 415),
        (b"Origin: http://elsewhere.example\r\nContent-Length: 2\r\n", b"{}", 403),
        (b"X: " + b"x" * 100_000 + b"\r\nContent-Length: 2\r\n", b"{}", 400),
    ],
    ids=["too large", "encoded", "foreign origin", "long head"],
)
def test_what_its_head_forbids_is_answered_with_an_envelope(
    server: ServerProcess, fields: bytes, body: bytes, status: int
) -> None:
    with Wire(server.url) as wire:
        wire.send(HEAD + fields + b"\r\n" + body)
        answer = wire.answer()

    assert answer.status == status
    spoken = checked_envelope(status, answer.body, "unknown", "0")
    assert spoken.text


@pytest.mark.slow
def test_the_name_of_a_stranger_is_answered_with_an_envelope(server: ServerProcess) -> None:
    head = HEAD.replace(b"Host: x", b"Host: evil.example.com")
    with Wire(server.url) as wire:
        wire.send(head + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY))
        answer = wire.answer()

    assert answer.status == 421
    assert "evil.example.com" in checked_envelope(421, answer.body, "promise.get", "c").text


@pytest.mark.slow
def test_a_connection_that_there_is_no_room_for_is_told_so_in_an_envelope(tmp_path: Path) -> None:
    whole = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    with ServerProcess(tmp_path, "--connection-limit-count", "1") as server:
        while True:  # until the connection is gone that asked whether the server is ready
            with Wire(server.url) as first:
                first.send(whole)
                if first.answer().status != 404:
                    continue
                with Wire(server.url) as second:
                    second.send(whole)
                    answer = second.answer()
                with Wire(server.url) as third:
                    third.send(b"GET /promises/x HTTP/1.1\r\nHost: x\r\n\r\n")
                    other = third.answer()
                if (answer.status, other.status) == (503, 503):
                    break  # else it was idle for a second, and had to make room

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "connections" in checked_envelope(503, answer.body, "unknown", "0").text
    assert (other.status, other.code) == (503, Code.OVERLOADED)


@pytest.mark.slow
def test_a_head_that_does_not_end_is_answered_with_an_envelope(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path, "--header-timeout-ms", "200") as server,
        Wire(server.url) as wire,
    ):
        wire.send(HEAD)
        answer = wire.answer()

    assert answer.status == 408
    assert checked_envelope(408, answer.body, "unknown", "0").text


@pytest.mark.slow
def test_other_paths_keep_their_own_errors(server: ServerProcess) -> None:
    for line in (b"POST /promises", b"GET /", b"PUT /", b"POST //"):
        content = line + b" HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"
        (answer,) = exchange(server.url, content)
        assert (answer.status, answer.code) == (400, Code.INVALID), line


# --- what is refused before it is looked at -------------------------------------------------------


@pytest.mark.parametrize("name", BODIES)
async def test_what_is_no_envelope_is_refused_in_one(name: str) -> None:
    async with running() as world:
        answer = await world.send("POST", "/", raw=BODIES[name])

        assert answer.status == 400
        assert checked_envelope(400, answer.body, "unknown", "0").text


@pytest.mark.parametrize(
    ("envelope", "kind", "corr_id"),
    [
        ({}, "unknown", "0"),
        ({"kind": ""}, "", "0"),
        ({"kind": 7, "head": {"corrId": 8}, "data": {}}, "unknown", "0"),
        ({"kind": "promise.get", "data": {}}, "promise.get", "0"),
        ({"kind": "promise.get", "head": None, "data": {}}, "promise.get", "0"),
        ({"kind": "promise.get", "head": [], "data": {}}, "promise.get", "0"),
        ({"kind": "promise.get", "head": {"corrId": "c"}, "data": {}}, "promise.get", "c"),
        ({**GET, "data": None}, "promise.get", "c"),
        ({**GET, "data": "x"}, "promise.get", "c"),
        ({**GET, "data": []}, "promise.get", "c"),
        ({**GET, "head": {"corrId": "c", "version": "2025-01-01"}}, "promise.get", "c"),
        ({**GET, "head": {"corrId": "c", "version": 20260401}}, "promise.get", "c"),
        ({**GET, "head": {"corrId": "c" * 2000}}, "promise.get", "0"),
        ({**GET, "kind": "promise.delete"}, "promise.delete", "c"),
        ({**GET, "kind": "Promise.Get"}, "Promise.Get", "c"),
        ({**GET, "kind": "debug.snap"}, "debug.snap", "c"),
    ],
)
async def test_a_refusal_repeats_what_could_be_read(
    envelope: object, kind: str, corr_id: str
) -> None:
    async with running() as world:
        answer = await world.send("POST", "/", envelope)

        assert answer.status == (403 if kind == "debug.snap" else 400)
        assert checked_envelope(answer.status, answer.body, kind, corr_id).text


async def test_the_order_of_checks() -> None:
    """A request with every fault is refused for one after the other, as they are mended."""
    faults: dict[str, dict[str, object]] = {
        "the body is not a request envelope": {"head": {"corrId": "c", "version": "x"}},
        "kind": {"kind": "nothing"},
        "data": {"data": {"id": ""}},
        "head.version": {"head": {"corrId": "c", "version": VERSION}},
        "kind ": {"kind": "promise.get"},
        "data.id": {"data": {"id": "x"}},
    }
    envelope: dict[str, object] = {"kind": "", "head": {"corrId": 1, "version": "x"}, "data": []}
    async with running() as world:
        for fault, mended in faults.items():
            answer = await world.send("POST", "/", envelope)
            assert (answer.status, answer.json["data"].split(":")[0]) == (400, fault.strip())
            envelope |= mended
        assert (await world.send("POST", "/", envelope)).status == 404


async def test_a_byte_order_mark_says_nothing() -> None:
    async with running() as world:
        answer = await world.send("POST", "/", raw=b"\xef\xbb\xbf" + BODY)

        assert checked_envelope(404, answer.body, "promise.get", "c").text


async def test_a_stop_answers_what_it_has_read_and_a_start_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with running() as world:
        conversation = Conversation(world)
        world.api.readiness = Readiness.STOPPING
        assert (await conversation.create("p"))["state"] == "pending"
        assert (await world.send("GET", "/promises/p")).status == 503

        world.api.readiness = Readiness.STARTING
        answer = await world.send("POST", "/", GET)
        assert trio.current_time() >= START_WAIT_S
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert checked_envelope(503, answer.body, "promise.get", "c").text

        async def become_ready() -> None:
            await trio.sleep(START_WAIT_S / 2)
            world.api.readiness = Readiness.READY

        async with trio.open_nursery() as nursery:
            nursery.start_soon(become_ready)
            assert (await conversation.good("promise.get", id="p"))["promise"]["id"] == "p"


async def test_a_defect_is_a_500_in_an_envelope(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as world:

        async def fail(*_: object) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(world.api.shards, "ask", fail)
        answer = await world.send("POST", "/", GET)

        assert answer.status == 500
        assert "a defect" not in checked_envelope(500, answer.body, "promise.get", "c").text


async def test_too_many_failed_attempts_are_refused_in_an_envelope() -> None:
    async with running(Settings(failed_attempts_limit_count=1)) as world:
        await new_account(world)
        await operator(world)
        for status in (401, 429):
            answer = await world.send("POST", "/", GET, {"Authorization": "Bearer nobody"})
            assert answer.status == status
            assert checked_envelope(status, answer.body, "promise.get", "c").text
