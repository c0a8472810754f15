"""The hot lane against the Quart path: the same bytes in, the same bytes out.

Two real servers get the same requests, one with the lane and one without. Only what depends on the
moment may differ: dates, times, and ids that the server chose.
"""

import json
import os
import random
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.helpers.server import REPOSITORY, ServerProcess
from tests.proofs.corpus import BROKEN_HTTP
from tests.proofs.wire import Wire

from .random_requests import DAY_MS, random_request, request

FAR_MS: Final = 4_102_444_800_000
SEED: Final = int(os.environ.get("TROTH_LANE_SEED", "20261122"))
RANDOM_REQUESTS_COUNT: Final = 1500
# Longer than an unfinished request stays on the lane, which looks four times a second.
SILENCE_S: Final = 1.5
AWAKE_S: Final = 0.2  # a server that answers within this was not kept from anything else
_MOMENTS: Final = re.compile(
    rb"date: [^\r]*|(?<=\D)1[78]\d{11}(?=\D)|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}"
    rb'-[0-9a-f]{12}|"cursor": ?"[^"]*"|(?<=\D)\d{18}(?=\D)'
)
"""Times, request ids, cursors, and fencing tokens, which are serials and so begin with the time."""
_RATES: Final = re.compile(rb'"(?:rate(?:In|Out)|through)":[^,]*')
"""Of the last 10 s of either server; and how far a page has looked, reckoned by serials."""
_TIMERS: Final = b'"timers":['
_TASKS: Final = b'"tasks":['
_LENGTH: Final = re.compile(rb"content-length: [^\r]*")

pytestmark = pytest.mark.slow

Servers = tuple[ServerProcess, ServerProcess]


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[Servers]:
    """Two servers that differ in the lane only."""
    common = ("--url", "http://troth", "--shards", "4")
    with (
        ServerProcess(directory / "lane", *common, *arguments, "--hot-lane") as lane,
        ServerProcess(directory / "quart", *common, *arguments, "--no-hot-lane") as quart,
    ):
        yield lane, quart


# Many of the requests are failed attempts, and how long to wait then differs by a second.
PATIENCE: Final = ("--failed-attempts-limit-count", "0")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with running(tmp_path_factory.mktemp("plain"), *PATIENCE) as both:
        yield both


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    settings = ("--basic-auth", "x=y", "--cors-allow-origin", "http://friend")
    with running(tmp_path_factory.mktemp("guarded"), *settings, *PATIENCE) as both:
        yield both


AUTHORIZATION: Final = b"Authorization: Basic eDp5\r\n"


def lane_numbers(server: ServerProcess) -> dict[str, float]:
    """The lane's statistics by name."""
    status, text = metrics(server)
    assert status == 200
    return {
        name: float(number)
        for name, number in re.findall(
            r'^troth_lane_(\w+)\{port="api"\} (\S+)$', text, re.MULTILINE
        )
    }


def metrics(server: ServerProcess) -> tuple[int, str]:
    with Wire(server.url) as wire:
        wire.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + AUTHORIZATION + b"\r\n")
        answer = wire.answer()
    return answer.status, answer.body.decode()


def port_of(server: ServerProcess) -> int:
    return int(server.url.rpartition(":")[2])


async def talk(server: ServerProcess, parts: list[bytes], pause_s: float = 0.0) -> bytes:
    """Send parts, and everything that comes back until the end, or until silence.

    What a busy machine keeps from answering is not silent: silence counts when the server answers
    others quickly.
    """
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
    came = b""
    async with stream:

        async def send() -> None:
            try:
                for part in parts:
                    await stream.send_all(part)
                    await trio.sleep(pause_s)
            except trio.BrokenResourceError:
                return  # refused before everything was sent: what came back says how

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            silence_s = SILENCE_S
            while True:
                with trio.move_on_after(silence_s) as waiting:
                    try:
                        data = await stream.receive_some(65536)
                    except trio.BrokenResourceError:
                        return came + b"<reset>"
                if waiting.cancelled_caught:
                    if silence_s == AWAKE_S:
                        nursery.cancel_scope.cancel()
                        return came + b"<open>"
                    # What it said while it was asked is read before that counts.
                    silence_s = AWAKE_S if await is_awake(server) else SILENCE_S
                    continue
                if not data:
                    nursery.cancel_scope.cancel()
                    return came + b"<closed>"
                came += data
                silence_s = SILENCE_S


async def is_awake(server: ServerProcess) -> bool:
    started = trio.current_time()
    await exchange(server, [request("GET", "/promises/nothing")])
    return trio.current_time() - started < AWAKE_S


def same(content: bytes) -> bytes:
    """An answer without what depends on the moment."""
    head, separator, body = content.partition(b"\r\n\r\n")
    if _TIMERS in body:
        # In the order of time: what is renewed together, in several shards, is due in any order.
        page = json.loads(body)
        page["timers"].sort(key=lambda row: (row["what"], row["id"]))
        content = head + separator + json.dumps(page).encode()
    if _TASKS in body:
        # Oldest first: what one server made within a millisecond, in several shards, is in any
        # order, and so another of these may be the last of a page that is cut.
        page = json.loads(body)
        if page.get("cursor") is not None:
            page["tasks"].pop()
        page["tasks"].sort(key=lambda row: str(row["id"]))
        content = _LENGTH.sub(b"~", head, count=1) + separator + json.dumps(page).encode()
    content, rates_count = _RATES.subn(b"~", content)
    if rates_count:  # they are of different lengths
        content = _LENGTH.sub(b"~", content, count=1)
    return _MOMENTS.sub(b"~", content)


async def exchange(server: ServerProcess, contents: list[bytes]) -> list[bytes]:
    """Send requests one after the other on one connection; the answers."""
    answers = []
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
    async with stream:
        for content in contents:
            await stream.send_all(content)
            answer = b""
            with trio.fail_after(60):
                while not is_complete(answer):
                    data = await stream.receive_some(1 << 20)
                    assert data, (content[:200], answer)
                    answer += data
            answers.append(answer)
    return answers


def is_complete(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\ncontent-length: (\d+)", head)
    return bool(separator) and len(body) >= (int(length[1]) if length else 0)


async def compare(servers: Servers, contents: list[bytes]) -> None:
    """The same requests to both, the same answers from both."""
    answers: list[list[bytes]] = [[], []]

    async def ask(number: int) -> None:
        answers[number] = await exchange(servers[number], contents)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 0)
        nursery.start_soon(ask, 1)
    for content, lane, quart in zip(contents, *answers, strict=True):
        assert same(lane) == same(quart), content[:2000]


def vector_requests() -> list[list[bytes]]:
    """The requests of all recorded vectors that do not wait for anything."""
    directory = os.environ.get("TROTH_CONFORMANCE")
    place = Path(directory) if directory else REPOSITORY.parent / "shared" / "conformance"
    made = []
    for number, line in enumerate((place / "vectors.jsonl").read_text().splitlines()):
        vector: dict[str, Any] = json.loads(line.replace("{ns}", f"v{number}."))
        steps = vector["steps"]
        if all("m" in step for step in steps):
            made.append([step_request(step) for step in steps])
    return made


def step_request(step: dict[str, Any]) -> bytes:
    body = step.get("raw")
    if body is None and "b" in step:
        body = json.dumps(step["b"])
    path = "".join(c if "!" <= c <= "~" else "%20" for c in step["p"])
    return request(step["m"], path, None if body is None else body.encode(), step.get("h"))


async def test_all_recorded_requests_are_answered_alike(servers: Servers) -> None:
    before = lane_numbers(servers[0])["requests_total"]
    vectors = vector_requests()
    assert len(vectors) > 400
    for contents in vectors:
        await compare(servers, contents)

    assert lane_numbers(servers[0])["requests_total"] - before > 3000


def test_requests_ask_for_nothing_that_ends_while_the_tests_run() -> None:
    chance = random.Random(SEED)
    bodies = [
        random_request(chance).partition(b"\r\n\r\n")[2] for _ in range(RANDOM_REQUESTS_COUNT)
    ]
    asked = [
        found for body in bodies for found in re.findall(rb'"(?:ttl|promiseTimeout)": (\w+)', body)
    ]
    assert set(asked) == {b"%d" % DAY_MS}
    assert not any(b"timestamp" in body for body in bodies)


def test_what_is_due_within_a_moment_may_come_in_any_order() -> None:
    rows = [
        b'{"at":1796000000001,"what":"lock","id":"b"}',
        b'{"at":1796000000000,"what":"lock","id":"a"}',
    ]
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"
    one, other = (
        head + b'{"cursor":null,"timers":[%b]}' % b",".join(some) for some in (rows, rows[::-1])
    )
    assert same(one) == same(other)
    assert same(one) != same(one.replace(b'"b"', b'"c"'))


def test_tasks_made_within_a_millisecond_may_come_in_any_order() -> None:
    rows = [b'{"id":"%c","createdOn":1796000000000}' % name for name in b"abc"]
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"

    def page(chosen: list[bytes], cursor: bytes) -> bytes:
        body = b'{"cursor":%b,"tasks":[%b]}' % (cursor, b",".join(chosen))
        return same(head % len(body) + body)

    assert page(rows, b"null") == page(rows[::-1], b"null")
    assert page(rows, b"null") != page(rows[:2], b"null")
    assert page(rows[:2], b'"one"') == page(rows[::2], b'"other"')
    assert page(rows[:2], b'"one"') != page(rows[1:], b'"other"')


async def test_random_requests_are_answered_alike(servers: Servers) -> None:
    await compare_random(servers, RANDOM_REQUESTS_COUNT)


@pytest.mark.newest
async def test_credentials_and_origins_are_judged_alike(guarded: Servers) -> None:
    before = lane_numbers(guarded[0])["requests_total"]

    await compare_random(guarded, RANDOM_REQUESTS_COUNT // 3)

    assert lane_numbers(guarded[0])["requests_total"] - before > RANDOM_REQUESTS_COUNT // 6


@pytest.mark.parametrize("header", [None, "Basic eDp6", "Bearer troth_x", "nonsense", ""])
@pytest.mark.parametrize("body", [b"{}", b"", b"{", b'{"kind": "promise.get"}'])
async def test_a_strangers_envelope_is_refused_alike(
    guarded: Servers, header: str | None, body: bytes
) -> None:
    headers = {} if header is None else {"Authorization": header}
    await compare(guarded, [request("POST", "/", body, headers)])


async def compare_random(servers: Servers, count: int) -> None:
    chance = random.Random(SEED)
    print(f"TROTH_LANE_SEED={SEED}")
    for _ in range(count // 10):
        await compare(servers, [random_request(chance) for _ in range(10)])


_GET = b"GET /promises/nothing HTTP/1.1\r\nHost: x\r\nRequest-Id: r\r\n\r\n"
_POST = b"POST /promises HTTP/1.1\r\nHost: x\r\nRequest-Id: r\r\n"
_BODY = b'{"id":"strict","timeout":4102444800000}'
_GOOD = _POST + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY
_AS_JAVA = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: h2c\r\n"

STRICT: Final[dict[str, list[bytes]]] = {
    **{name: [content] for name, content in BROKEN_HTTP.items()},
    **{f"good, then {name}": [_GET + content] for name, content in BROKEN_HTTP.items()},
    "same length twice": [_POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + _GET],
    "folded": [_POST + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}" + _GET],
    "folded length": [_POST + b"Content-Length:\r\n 2\r\n\r\n{}" + _GET],
    "bare LF": [_GET.replace(b"\r\n", b"\n") + _GET],
    "bare LF at the end": [_GET[:-2] + b"\n" + _GET],
    "bare CR": [_GET.replace(b"\r\n", b"\r")],
    "NUL in target": [_GET.replace(b"nothing", b"not\x00hing")],
    "empty lines first": [b"\r\n\r\n" + _GET],
    "empty line for the request": [b"\r\nHost: x\r\n\r\n"],
    "chunked": [_POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + _GET],
    "chunked and a trailer": [
        _POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n" + _GET
    ],
    "body longer than said": [_POST + b"Content-Length: 1\r\n\r\n{}" + _GET],
    "body shorter than said": [_POST + b"Content-Length: 40\r\n\r\n{}"],
    "body on GET": [_GET[:-2] + b"Content-Length: 5\r\n\r\nGET /" + _GET],
    "a request as body": [_POST + b"Content-Length: %d\r\n\r\n" % len(_GET) + _GET + _GET],
    "many in one go": [_GET * 40],
    "errors in the middle": [_GET + _POST + b"Content-Length: 3\r\n\r\n{x}" + _GET],
    # Nothing follows these two: whether h11 refuses that before the answer is a matter of luck.
    "close at the end": [_GET + _GET[:-2] + b"Connection: close\r\n\r\n"],
    "close": [_GET[:-2] + b"Connection: close\r\n\r\n"],
    "close, and more too late": [_GET[:-2] + b"connection:Close\r\n\r\n", b"", b"", _GET],
    "close after a body": [
        _POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY
    ],
    "close and others": [_GET[:-2] + b"Connection: close, x\r\n\r\n"],
    "keep-alive and close": [_GET[:-2] + b"Connection: keep-alive\r\nConnection: close\r\n\r\n"],
    "1.0": [_GET.replace(b"1.1", b"1.0")],
    "1.0 and keep-alive": [_GET.replace(b"1.1", b"1.0")[:-2] + b"Connection: keep-alive\r\n\r\n"],
    "1.0 without a host": [b"GET /promises/nothing HTTP/1.0\r\nRequest-Id: r\r\n\r\n"],
    "1.0 in chunks": [
        _POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ],
    "1.0 at the end": [_GET + _GET.replace(b"1.1", b"1.0")],
    "a page in the middle": [_GET + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" + _GET],
    "HEAD in the middle": [_GET + _GET.replace(b"GET", b"HEAD") + _GET],
    "OPTIONS in the middle": [_GET + _GET.replace(b"GET", b"OPTIONS") + _GET],
    "slow body that is waited for": [
        _POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        b"{}",
    ],
    "1.0 and a body that is waited for": [
        _POST.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
    ],
    "something else is expected": [_POST + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}" + _GET],
    "upgrade": [_GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + _GET],
    "upgrade as Java asks for it": [_GET[:-2] + _AS_JAVA + b"\r\n" + _GET],
    "a target with a host": [_GET.replace(b"GET /", b"GET http://x/")],
    "byte by byte": [bytes([byte]) for byte in _GOOD + _GET],
    "slow body": [_POST + b"Content-Length: 2\r\n\r\n{", b"", b"", b"", b"}" + _GET],
    "slow head": [_GET[:30], b"", b"", b"", _GET[30:] + _GET],
    "a long body": [_POST + b"Content-Length: 300000\r\n\r\n" + b" " * 299_998 + b"{}" + _GET],
    "nothing": [b""],
}


def test_chunks_and_javas_upgrade_stay_on_the_lane(servers: Servers) -> None:
    lane, _ = servers
    before = lane_numbers(lane)["handed_over_total"]
    with Wire(lane.url) as wire:
        for fields in (_AS_JAVA, b"", _AS_JAVA):
            wire.send(_POST + fields + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
            wire.send(b"0\r\n\r\n")
            assert wire.answer().status == 400

    # Whoever asks for the numbers is handed over.
    assert lane_numbers(lane)["handed_over_total"] == before + 1


def test_a_request_that_is_the_last_is_answered_on_the_lane(servers: Servers) -> None:
    """As nginx and `ab` ask by default, and what wants one answer."""
    lane, _ = servers
    before = lane_numbers(lane)["handed_over_total"]
    old = _GET.replace(b"HTTP/1.1", b"HTTP/1.0")
    closing = _GET.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
    for content in (old, closing, old, closing):
        with Wire(lane.url) as wire:
            wire.send(content)
            answer = wire.answer()
            assert answer.status == 404
            assert answer.headers["connection"] == "close"
            assert wire.rest() == b""

    assert lane_numbers(lane)["handed_over_total"] == before + 1


_BROWSER: Final = {
    "Connection": "keep-alive",
    "sec-ch-ua": '"Chromium";v="156", "Not?A_Brand";v="24"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Dest": "empty",
    "Referer": "http://troth/ui/promises?id=*",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-US,en;q=0.9",
    "Cookie": "other=1; troth_session=unknown",
    "If-None-Match": 'W/"0"',
    "Cache-Control": "max-age=0",
    "Pragma": "no-cache",
    "Priority": "u=1, i",
}


async def test_what_a_browser_asks_for_stays_on_the_lane(servers: Servers) -> None:
    """The page, its files and all that it shows, on connections that stay where they are."""
    lane, _ = servers
    (page,) = await exchange(lane, [request("GET", "/ui/promises")])
    assets = sorted(set(re.findall(rb'(?:href|src)="((?:/ui/)?assets/[^"]+)"', page)))
    paths = [f"/ui/{one.decode().removeprefix('/ui/')}" for one in assets]
    assert len(paths) >= 3
    paths += ["/", "/ui", "/ui/", "/ui/promises", "/ui/assets/none", "/whoami", "/session"]
    paths += ["/promises?id=*&values=none&partial=true", "/tree/r.1", "/why/r.1", "/waiting/r.1"]
    paths += ["/tasks", "/locks", "/timers", "/bulk", "/queues", "/workers", "/failures"]
    paths += ["/settings", "/v1/function/list", "/admin/tokens", "/admin/accounts", "/admin/audit"]
    gets = [request("GET", path, None, _BROWSER) for path in paths]
    tag = re.search(rb"etag: ([^\r]*)", page)
    assert tag is not None
    known = {**_BROWSER, "If-None-Match": tag[1].decode()}
    gets.append(request("GET", "/ui/promises", None, known))
    posts = [
        request("POST", path, body, {**_BROWSER, "Content-Type": "application/json"})
        for path, body in (
            ("/session", b'{"token":"none"}'),
            ("/bulk", b'{"action":"cancel"}'),
            ("/tasks/retry", b'{"id":"none"}'),
        )
    ]
    before = lane_numbers(lane)["handed_over_total"]
    await compare(servers, [*gets, *posts, *gets[:3]])
    (statistics,) = await exchange(lane, [request("GET", "/statistics", None, _BROWSER)])

    assert statistics.startswith(b"HTTP/1.1 200 ")
    # Whoever asks for the numbers is handed over.
    assert lane_numbers(lane)["handed_over_total"] == before + 1


async def test_every_odd_request_is_answered_alike(servers: Servers) -> None:
    answers: dict[tuple[str, int], bytes] = {}
    limit = trio.CapacityLimiter(40)

    async def ask(name: str, number: int) -> None:
        pause_s = 0.4 if name.startswith("slow") else 0.0
        async with limit:
            answers[name, number] = await talk(servers[number], STRICT[name], pause_s)

    different = dict.fromkeys(STRICT, (b"", b""))
    for _ in range(3):
        # A reset may undo an answer that was sent, so what differs is asked again.
        async with trio.open_nursery() as nursery:
            for name in different:
                nursery.start_soon(ask, name, 0)
                nursery.start_soon(ask, name, 1)
        different = {
            name: (answers[name, 0][-500:], answers[name, 1][-500:])
            for name in different
            if settled(answers[name, 0]) != settled(answers[name, 1])
        }
    assert different == {}
    assert same(answers["many in one go", 0]).count(b"HTTP/1.1 404") == 40


def settled(content: bytes) -> bytes:
    """An answer; of a connection that ended, how it ended is up to the kernel."""
    return same(content).replace(b"<reset>", b"<closed>")


async def test_half_closed_connections_get_their_answer(servers: Servers) -> None:
    for server in servers:
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        async with stream:
            await stream.send_all(_GET + _GET)
            await stream.send_eof()
            came = b""
            with trio.fail_after(60):
                while data := await stream.receive_some(65536):
                    came += data
        assert came.count(b"HTTP/1.1 404") == 2


def test_a_request_is_carried_out_though_its_client_has_reset(servers: Servers) -> None:
    lane = servers[0]
    for number in range(20):
        with socket.create_connection(("127.0.0.1", port_of(lane))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            body = json.dumps({"id": f"reset{number}", "timeout": FAR_MS}).encode()
            client.sendall(request("POST", "/promises", body))
            client.recv(1)  # so it was read: a reset discards what was not
    for number in range(20):
        assert lane.request("GET", f"/promises/reset{number}")[0] == 200
    assert lane_numbers(lane)["failed_total"] == 0


async def test_a_slow_reader_gets_everything_in_order(servers: Servers) -> None:
    lane = servers[0]
    data = "QUJD" * 40_000
    body = json.dumps({"id": "long", "timeout": FAR_MS, "param": {"data": data}}).encode()
    await exchange(lane, [request("POST", "/promises", body)])
    reads = [
        request("GET", "/promises/long", None, {"Request-Id": f"n{number}."})
        for number in range(60)
    ]
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(lane))
    async with stream:
        await stream.send_all(b"".join(reads))
        await trio.sleep(0.3)  # by now the server cannot write any more
        assert (await exchange(lane, [reads[0]]))[0].startswith(b"HTTP/1.1 200"), "others go on"
        came = b""
        with trio.fail_after(60):
            while came.count(b"createdOn") < len(reads):
                came += await stream.receive_some(65536)
    assert re.findall(rb"request-id: n(\d+)\.", came) == [b"%d" % n for n in range(60)]
    assert came.count(data.encode()) == len(reads)


async def test_idle_connections_end_after_the_keep_alive_timeout(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--keep-alive-timeout-ms", "500") as server:
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        async with stream:
            await stream.send_all(_GET)
            started = trio.current_time()
            assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 404")
            with trio.fail_after(60):
                assert await stream.receive_some(1) == b""
            assert trio.current_time() - started > 0.4


async def test_both_ways_count_requests_alike(servers: Servers) -> None:
    counts = []
    for server in servers:
        pattern = r'^troth_http_requests_total\{endpoint="readSchedule",status="\d+"\} (\S+)'
        before = sum(float(n) for n in re.findall(pattern, metrics(server)[1], re.MULTILINE))
        await exchange(server, [request("GET", "/schedules/none")] * 3)
        after = sum(float(n) for n in re.findall(pattern, metrics(server)[1], re.MULTILINE))
        counts.append(after - before)
    assert counts == [3, 3]
