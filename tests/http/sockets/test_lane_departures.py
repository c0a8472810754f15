"""Which connections stay on the lane, which leave it, and what is counted of that."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from tests.helpers.server import ServerProcess
from tests.proofs.wire import Wire
from troth.http.sockets.departures import REASONS
from troth.http.sockets.lane_connection import PARTIAL_LIMIT_S

from .test_lane import AUTHORIZATION, PATIENCE, lane_numbers, metrics

pytestmark = pytest.mark.slow

GET: Final = b"GET /promises/nothing HTTP/1.1\r\nHost: x\r\nRequest-Id: r\r\n\r\n"
LEFT_AFTER_S: Final = PARTIAL_LIMIT_S + 2.0
"""While nothing else happens the lane looks once a second at what is late."""
POST: Final = b"POST /promises HTTP/1.1\r\nHost: x\r\nRequest-Id: r\r\n"


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("open"), "--shards", "4", *PATIENCE) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("guarded")
    with ServerProcess(directory, "--basic-auth", "x=y", "--shards", "4", *PATIENCE) as server:
        yield server


def test_a_body_that_is_waited_for_is_asked_for_on_the_lane(guarded: ServerProcess) -> None:
    """Unless its head is refused: that is said elsewhere, and what is sent in vain not kept."""
    expecting = b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    before = lane_numbers(guarded)["handed_over_total"]
    with Wire(guarded.url) as wire:
        for _ in range(2):
            wire.send(POST + AUTHORIZATION + expecting)
            assert wire.answer(without_body=True).status == 100
            wire.send(b"{}")
            assert wire.answer().status == 400
    assert lane_numbers(guarded)["handed_over_total"] == before + 1
    wrong = AUTHORIZATION.replace(b"eDp5", b"eDp6")
    for path, head, status in (
        (b"/promises", b"", 401),
        (b"/promises", wrong, 401),
        (b"/nowhere", AUTHORIZATION, 404),
        (b"/promises", AUTHORIZATION + b"Content-Encoding: gzip\r\n", 415),
    ):
        with Wire(guarded.url) as wire:
            wire.send(POST.replace(b"/promises", path) + head + expecting)
            assert final_status(wire) == status
    assert departures(guarded)["expectation"] == 3


def final_status(wire: Wire, body: bytes = b"{}") -> int:
    """The status of an answer, for which a body is sent if it is asked for."""
    status = wire.answer(without_body=True).status
    if status != 100:
        return status
    wire.send(body)
    return wire.answer(without_body=True).status


def departures(server: ServerProcess) -> dict[str, float]:
    """How many connections have left the lane of the API's port, by reason."""
    found = re.findall(
        r'^troth_lane_departures_total\{port="api",reason="(\w+)"\} (\S+)$',
        metrics(server)[1],
        re.MULTILINE,
    )
    return {reason: float(number) for reason, number in found}


def test_what_leaves_the_lane_is_counted_by_reason(lane: ServerProcess) -> None:
    leaving = {
        "request_line": GET.replace(b"GET", b"HEAD"),
        "endpoint": b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n",
        "fields": POST + b"TE: x\r\nContent-Length: 2\r\n\r\n{}",
        "expectation": POST.replace(b"/promises", b"/nowhere")
        + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        "chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n2;x\r\n{}\r\n0\r\n\r\n",
        "large": POST + b"Content-Length: 300000\r\n\r\n" + b" " * 299_998 + b"{}",
        "slow": POST + b"Content-Length: 2\r\n\r\n{",
    }
    before = departures(lane)
    assert set(before) == set(REASONS)
    for reason, content in leaving.items():
        with Wire(lane.url) as wire:
            wire.send(content)
            if reason == "slow":
                time.sleep(LEFT_AFTER_S)
                wire.send(b"}")
            assert final_status(wire) in (200, 201, 400, 404)
    after = departures(lane)
    left = {reason: after[reason] - before[reason] for reason in REASONS}

    assert {reason: left[reason] for reason in leaving} == dict.fromkeys(leaving, 1.0) | {
        "endpoint": 2.0,  # who asks for the numbers leaves, too
    }
    assert sum(after.values()) == lane_numbers(lane)["handed_over_total"] - 1


def test_a_connection_takes_no_task(lane: ServerProcess) -> None:
    """Nor does its end: many connections cost their sockets, and what they ask for."""
    before = lane_numbers(lane)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(lane.url)) for _ in range(100)]
        for wire in wires:
            wire.send(GET)
        assert {wire.answer().status for wire in wires} == {404}
        during = lane_numbers(lane)
    assert during["connections"] >= 100
    assert during["requests_total"] >= before["requests_total"] + 100
    assert during["handed_over_total"] == before["handed_over_total"] + 1
