"""Hostile input: always a refusal with the error body, never a 5xx, a hang or a changed state.

After every test the server must be well: healthy, quick, within its memory, and holding exactly
the promises and schedules whose creation it has acknowledged. What schemathesis finds is tested in
tests/http/documents/test_schema_fuzzing.py.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final
from urllib.parse import quote

import pytest

from .corpus import BODIES, BROKEN_HTTP, NO_METHODS, SMUGGLED, wrong_fields
from .hostile import (
    ACCOUNTS,
    BODY_LIMIT_BYTES,
    Caller,
    Taker,
    Target,
    assert_refused,
    assert_taker_refused,
    filled,
    takers_of,
    try_every_method,
    watched,
)
from .support import FAR_MS
from .wire import Answer, Wire, exchange, is_closed_within

CONNECTIONS_LIMIT_COUNT: Final = 150
TIMEOUT_MS: Final = 1000  # of the server, for headers and bodies that do not come
HOSTILE: Final = {"id": "hostile"}  # what parameters of paths are filled with
ARGUMENTS: Final = (
    *("--header-timeout-ms", str(TIMEOUT_MS)),
    *("--body-timeout-ms", str(TIMEOUT_MS)),
    *("--connection-limit-count", str(CONNECTIONS_LIMIT_COUNT)),
)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One server for all attacks."""
    with Target(tmp_path_factory.mktemp("attacked"), *ARGUMENTS) as target:
        # Some memory is only used by the first requests of a kind.
        for number in range(200):
            body = {"id": f"first{number}", "timeout": FAR_MS}
            assert target.request("POST", "/promises", body)[0] == 201
        yield target


@pytest.fixture
def target(attacked: Target) -> Iterator[Target]:
    """The server, which must be well before and after."""
    yield from watched(attacked)


# --- bodies ---------------------------------------------------------------------------------------


@pytest.fixture
def caller(target: Target) -> Iterator[Caller]:
    """A connection for bodies."""
    made = Caller(target)
    yield made
    made.close()


@pytest.fixture(scope="module")
def takers(attacked: Target) -> list[Taker]:
    """Every operation that takes a body, but for those that would end that the server is open."""
    found = [one for one in takers_of(attacked.document()) if not one.template.startswith(ACCOUNTS)]
    assert len(found) >= 12, found
    return found


def _count_created(target: Target, path: str, answer: Answer) -> None:
    if answer.status == 201 and path in {"/promises", "/promises/task", "/schedules"}:
        target.created_count += 1


@pytest.mark.slow
def test_no_body_that_is_no_request_is_taken(caller: Caller, takers: list[Taker]) -> None:
    for taker in takers:
        for name, body in BODIES.items():
            answer = caller.call(taker.method, filled(taker.template, HOSTILE), body)
            if (taker.template, name) == ("/promises/batch", "array"):
                assert (answer.status, answer.body) == (200, b"[]")  # no calls, no answers
                continue
            assert_taker_refused(taker, answer, name)


def test_no_field_can_be_wrong_in_a_way_that_hurts(
    target: Target, caller: Caller, takers: list[Taker]
) -> None:
    refused_count = 0
    for taker in takers:
        for name, body in wrong_fields(taker.example or {}):
            answer = caller.call(taker.method, filled(taker.template, HOSTILE), body)
            _count_created(target, taker.template, answer)
            if answer.status >= 300:
                assert_taker_refused(taker, answer, name)
                refused_count += 1
            assert b"\\ud800" not in answer.body, (taker, name)
    assert refused_count > 500


def test_the_content_type_does_not_matter(target: Target, caller: Caller) -> None:
    kinds = ("", "text/plain", "application/xml", "multipart/form-data; boundary=x", "\xff/*", "x")
    for number, kind in enumerate(kinds):
        body = json.dumps({"id": f"kind{number}", "timeout": FAR_MS}).encode()
        answer = caller.call("POST", "/promises", body, {"Content-Type": kind})
        assert answer.status == 201, (kind, answer)
        target.created_count += 1


def test_a_body_beyond_the_limit_is_refused(
    target: Target, caller: Caller, takers: list[Taker]
) -> None:
    for taker in takers:
        path = filled(taker.template, HOSTILE)
        head = f"{taker.method} {path} HTTP/1.1\r\nHost: x\r\n"
        with Wire(target.url) as wire:
            wire.send(f"{head}Content-Length: {BODY_LIMIT_BYTES + 1}\r\n\r\n{{".encode())
            answer = wire.answer()
            assert_taker_refused(taker, answer)
            assert answer.status == 413
        with Wire(target.url) as wire:
            chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
            wire.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 5)
            # Credentials are judged before the body is read, a chunked one too.
            needs_token = caller.call(taker.method, path, b"{}").status == 401
            assert wire.answer().status == (401 if needs_token else 413), taker


# --- paths, ids, queries, methods -----------------------------------------------------------------


def test_ids_with_any_byte_are_found_or_refused(target: Target) -> None:
    for value in range(256):
        for written in (bytes([value]), b"%%%02x" % value, b"%%%02X%%zz" % value, b"%25" * 3):
            head = b"GET /promises/raw-" + written + b" HTTP/1.1\r\nHost: x\r\n\r\n"
            for answer in exchange(target.url, head):
                assert_refused(answer, head)


def test_ids_with_any_character_come_back_as_they_were(target: Target, caller: Caller) -> None:
    characters = [*map(chr, range(1, 256)), "\0", "\u2028", "\ud7ff", "\ue000", "\uffff", "🙂"]
    for character in characters:
        name = f"any {character} id"
        body = json.dumps({"id": name, "timeout": FAR_MS}).encode()
        assert caller.call("POST", "/promises", body).status == 201, repr(character)
        target.created_count += 1
        answer = caller.call("GET", f"/promises/{quote(name, safe='')}", b"")
        assert answer.status == 200, repr(character)
        assert answer.json["id"] == name


@pytest.mark.parametrize(
    "path",
    [
        "/promises/" + "x" * 1025,
        "/promises/" + "x" * 20_000,
        "/promises/" + "/" * 20_000,
        "/promises/" + "../" * 5_000,
        "/tasks/claim/x/" + "9" * 5_000,
        "/tasks/claim/x/nothing",
        "/promises?id=*&limit=" + "9" * 5_000,
        "/promises?id=" + "*" * 20_000,
        "/promises?" + "&".join(f"tags[{number}]=x" for number in range(1_500)),
        "/promises?" + "&" * 20_000,
        "/promises?id=%ff",
        "/promises?id=%",
        "/promises?id=*&tags=%7B",
        "/promises?cursor=" + "x" * 20_000,
        "/promises?cursor=eyJhbGciOiJub25lIn0.e30.",
        "/schedules?cursor=%00",
        "/nothing/here",
        "//",
        "/promises/../../etc/passwd",
        "/%70romise%73",
        "*",
        "http://other.example/promises/nobody",
    ],
    ids=lambda path: path[:40],
)
def test_no_path_hurts(path: str, target: Target) -> None:
    answers = exchange(target.url, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert len(answers) == 1
    if not (path.startswith("/promises?id=**") and answers[0].status == 200):
        assert_refused(answers[0], path)


def test_every_method_on_every_path_is_taken_or_refused(target: Target) -> None:
    try_every_method(target, HOSTILE)


@pytest.mark.parametrize("method", NO_METHODS, ids=repr)
def test_a_word_that_can_be_no_method_is_refused(method: str, target: Target) -> None:
    answers = exchange(
        target.url, f"{method} /health HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1")
    )

    assert len(answers) == 1
    assert_refused(answers[0], method)


# --- bytes that are no HTTP -----------------------------------------------------------------------


@pytest.mark.parametrize("port", ["api", "poll"])
@pytest.mark.parametrize("name", BROKEN_HTTP)
def test_broken_http_is_refused(name: str, port: str, target: Target) -> None:
    url = target.url if port == "api" else target.poll_url

    answers = exchange(url, BROKEN_HTTP[name])

    assert len(answers) <= 1, answers
    for answer in answers:
        assert_refused(answer, name)


def test_an_answer_is_given_wherever_a_request_can_be_seen(target: Target) -> None:
    """Closing without a word is only for what does not look like HTTP."""
    silent = {name for name, content in BROKEN_HTTP.items() if not exchange(target.url, content)}

    assert silent <= {"endless line", "zeros", "all bytes", "line ends"}


def test_a_request_cannot_hide_another(target: Target) -> None:
    for content in (BROKEN_HTTP["length and chunked"], BROKEN_HTTP["two lengths"] + SMUGGLED):
        assert len(exchange(target.url, content)) <= 1
    assert target.request("GET", "/promises/smuggled")[0] == 404


def test_pipelined_requests_are_answered_in_order(target: Target) -> None:
    count = 100
    content = b"".join(
        b"GET /promises/first%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(count)
    )

    answers = exchange(target.url, content)

    assert [answer.json["id"] for answer in answers] == [f"first{n}" for n in range(count)]


# --- slow, half-open, broken and too many connections ---------------------------------------------


def test_slow_senders_are_cut_off(target: Target) -> None:
    head = b"POST /promises HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    with Wire(target.url) as slow_head, Wire(target.url) as slow_body:
        slow_head.send(head)
        slow_body.send(head + b"\r\n{")
        for wire in (slow_head, slow_body):
            answer = wire.answer()
            assert_refused(answer)
            assert answer.status == 408
            assert is_closed_within(wire, 4)


@pytest.mark.slow
def test_a_header_a_byte_at_a_time_is_cut_off(target: Target) -> None:
    """Each byte comes soon after the other, but the whole does not come in time."""
    with Wire(target.url) as wire:
        started = time.monotonic()
        wire.send(b"GET / HTTP/1.1\r\nX: ")
        while time.monotonic() - started < 2.5 * TIMEOUT_MS / 1000:
            wire.send(b"x")
            time.sleep(0.05)
        assert wire.answer().status == 408


def test_slow_readers_hold_up_nobody(target: Target) -> None:
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    wires = [Wire(target.url) for _ in range(20)]
    for wire in wires:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.socket.settimeout(0.2)
        try:
            wire.socket.sendall(request * 200)  # never reads what comes
        except TimeoutError:
            continue  # the server reads no more either: so it should be
    started = time.monotonic()
    for _ in range(20):
        assert target.request("GET", "/promises/first1")[0] == 200
    assert time.monotonic() - started < 30
    for wire in wires:
        wire.socket.close()


def test_half_closed_connections_are_answered(target: Target) -> None:
    (answer,) = exchange(target.url, b"GET /promises/first1 HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer.json["id"] == "first1"
    assert exchange(target.url, b"") == []
    for answer in exchange(target.url, b"POST /promises HTTP/1.1\r\nHost: x\r\nContent-Le"):
        assert_refused(answer)


def test_resets_at_any_moment_hurt_nobody(target: Target) -> None:
    body = json.dumps({"id": "reset", "timeout": FAR_MS}).encode()
    content = b"POST /promises HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for length in range(0, len(content), 2):  # never the last byte: never a whole request
        with Wire(target.url) as wire:
            wire.send(content[:length])
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(50):
        with Wire(target.poll_url) as wire:
            wire.send(b"GET /group/worker HTTP/1.1\r\nHost: x\r\n\r\n")
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert target.request("GET", "/promises/reset")[0] == 404


def test_a_flood_of_connections_is_limited(target: Target) -> None:
    request = b"GET /promises/first1 HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as opened:
        early = opened.enter_context(Wire(target.url))
        early.send(request)
        assert early.answer().status == 200
        flood = [opened.enter_context(Wire(target.url)) for _ in range(2 * CONNECTIONS_LIMIT_COUNT)]
        refused = 0
        for wire in flood:
            wire.send(request)
            answer = wire.answer()
            if answer.status == 503:
                assert answer.code == 50301
                assert "retry-after" in answer.headers
                refused += 1
        assert refused >= CONNECTIONS_LIMIT_COUNT
        early.send(request)
        assert early.answer().status == 200, "who was there before is served"
    deadline = time.monotonic() + 60
    while exchange(target.url, request)[0].status != 200:
        assert time.monotonic() < deadline, "room comes back"


def test_many_hostile_clients_at_once(target: Target) -> None:
    contents = [*BROKEN_HTTP.values()] * 3
    problems: list[BaseException] = []

    def attack(share: list[bytes]) -> None:
        try:
            for content in share:
                for answer in exchange(target.url, content):
                    assert_refused(answer)
        except BaseException as error:
            problems.append(error)
            raise

    threads = [threading.Thread(target=attack, args=(contents[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert problems == []


# --- what HTTP allows and this server need not do -------------------------------------------------


def test_expect_continue_is_answered(target: Target) -> None:
    body = json.dumps({"id": "expected", "timeout": FAR_MS}).encode()
    head = (
        b"POST /promises HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    )
    with Wire(target.url) as wire:
        wire.send(head % len(body))
        assert wire.answer().status == 100
        wire.send(body)
        assert wire.answer().status == 201
        target.created_count += 1
    with Wire(target.url) as wire:
        wire.send(head % (BODY_LIMIT_BYTES + 1))
        answer = wire.answer()
        assert (answer if answer.status != 100 else wire.answer()).status == 413


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Connection: Upgrade\r\nUpgrade: TLS/1.3",
        "Connection: close, close, keep-alive\r\nTE: trailers\r\nRange: bytes=0-1",
        "Content-Length: 0\r\nAccept: nothing/known\r\nAccept-Encoding: x;q=-1",
    ],
    ids=["h2c", "websocket", "tls", "connection", "accept"],
)
def test_what_is_not_offered_is_ignored(headers: str, target: Target) -> None:
    request = f"GET /promises/first1 HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n"

    (answer,) = exchange(target.url, request.encode())

    assert answer.status == 200
    assert answer.json["id"] == "first1"
