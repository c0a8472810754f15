"""What a collector gets of a real server: by OTLP over HTTP, in protobuf."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.examples.program import Program
from tests.helpers.server import ServerProcess, http_json

from .collector import Collector, SeenSpan, collecting, drawn, orphans
from .workers import Tracer, create, data, headers_here, messages, work_once

pytestmark = pytest.mark.slow

TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
PARENT: Final = f"00-{TRACE_ID}-b7ad6b7169203331-01"
CALLER: Final = frozenset({"b7ad6b7169203331"})
RESOLVED: Final = {"state": "RESOLVED", "value": {"data": data("secret-value")}}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Run a collector."""
    with collecting() as running:
        yield running


def server_at(path: Path, collector: Collector, *arguments: str, **more: str) -> ServerProcess:
    return ServerProcess(path, *arguments, environment={**collector.environment, **more})


def metric(server: ServerProcess, result: str) -> float:
    """Return how many spans have had a result."""
    status, text = http_json("GET", f"{server.url}/metrics")
    assert status == 200
    wanted = f'troth_trace_spans_total{{result="{result}"}} '
    return next(float(line[len(wanted) :]) for line in text.splitlines() if wanted in line)


def named(spans: list[SeenSpan], name: str) -> SeenSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_collector_gets_every_span(collector: Collector, tmp_path: Path) -> None:
    """Every kind of the table arrives, with its parent, its kind and its attributes."""
    more = {"OTEL_SERVICE_NAME": "orders", "OTEL_RESOURCE_ATTRIBUTES": "region=north"}
    more["OTEL_EXPORTER_OTLP_HEADERS"] = "x-key=collector-secret"
    more["OTEL_EXPORTER_OTLP_COMPRESSION"] = "gzip"
    with server_at(tmp_path, collector, "--trace-tags", "shop", **more) as server:
        caller = {"traceparent": PARENT, "tracestate": "vendor=1"}
        tags = {"resonate:invoke": "poll://any@g", "shop": "north"}
        function = {"data": data({"func": "pay"})}
        assert create(server, "a", None, caller, tags=tags, param=function) == 201
        stream = messages(server, "g")
        next(stream)
        message = next(stream)
        claim = {"id": "__invoke:a", "counter": 1, "processId": "w1", "ttl": 60_000}
        status, claimed = server.request("POST", "/tasks/claim", claim)
        assert status == 201
        assert server.request("PATCH", "/promises/a", RESOLVED)[0] == 201
        minute = {"id": "s", "cron": "* * * * * *", "promiseId": "run", "promiseTimeout": 60_000}
        assert server.request("POST", "/schedules", minute)[0] == 201
        spans = collector.wait_for(
            *("POST /promises", "send poll://g", "POST /tasks/claim", "attempt"),
            *("promise pay", "PATCH /promises/{id...}", "schedule fire", "POST /schedules"),
        )
        stream.close()
        assert metric(server, "sent") >= 8
        assert metric(server, "failed") == metric(server, "dropped") == 0

    made = named(spans, "POST /promises")
    assert (made.trace_id, made.parent_id, made.kind) == (TRACE_ID, PARENT[36:52], "SERVER")
    assert made.attributes["http.route"] == "/promises"
    assert made.attributes["http.response.status_code"] == 201
    assert made.attributes["troth.promise.id"] == "a"
    assert made.attributes["troth.wait.disk_ms"] >= 0
    assert made.resource["service.name"] == "orders"
    assert made.resource["region"] == "north"
    sending = next(one for one in spans if one.attributes.get("troth.result") == "sent")
    assert (sending.parent_id, sending.kind) == (made.span_id, "PRODUCER")
    handed_on = {"traceparent": f"00-{TRACE_ID}-{sending.span_id}-01", "tracestate": "vendor=1"}
    assert message["head"] == claimed["head"] == handed_on
    attempt = named(spans, "attempt")
    assert (attempt.parent_id, attempt.kind) == (sending.span_id, "CONSUMER")
    assert attempt.attributes["troth.outcome"] == "completed"
    life = named(spans, "promise pay")
    assert (life.parent_id, life.kind) == (made.span_id, "INTERNAL")
    assert life.attributes["troth.tag.shop"] == "north"
    of_trace = [span for span in spans if span.trace_id == TRACE_ID]
    assert {span.tracestate for span in of_trace} == {"vendor=1"}
    assert not orphans(spans, CALLER)
    assert collector.headers[0]["x-key"] == "collector-secret"
    assert collector.headers[0]["content-encoding"] == "gzip"


def test_sdk_worker_nests(collector: Collector, tmp_path: Path) -> None:
    """Request, message, worker, child promise and attempt are one trace without a gap."""
    opened = threading.Event()
    with (
        server_at(tmp_path, collector) as server,
        Tracer(collector, "worker") as worker,
        Tracer(collector, "client") as client,
    ):
        thread = threading.Thread(target=work_once, args=(server, worker, "g", opened))
        thread.start()
        assert opened.wait(60)
        with client.tracer.start_as_current_span("order"):
            assert create(server, "a", "g", headers_here()) == 201
        thread.join(60)
        spans = collector.wait_for("order", "work", "attempt", "promise", "promise")
        time.sleep(0.5)
        assert server.terminate() == 0  # the last spans leave with it

    spans = collector.spans
    assert not orphans(spans), drawn(spans, spans[0].trace_id)
    assert len({span.trace_id for span in spans}) == 1
    by_id = {span.span_id: span for span in spans}

    def line(span: SeenSpan) -> list[str]:
        above = by_id.get(span.parent_id)
        return [*([] if above is None else line(above)), span.name]

    def line_to(name: str, promise_id: str) -> list[str]:
        wanted = [one for one in spans if one.name == name]
        return line(next(o for o in wanted if o.attributes["troth.promise.id"] == promise_id))

    to_send = ["order", "POST /promises", "send poll://g"]
    assert line(named(spans, "work")) == [*to_send, "work"]
    assert line(named(spans, "attempt")) == [*to_send, "attempt"]
    # The worker named no trace when it made the child, only the task.
    assert line_to("promise", "a-child") == [*to_send, "POST /promises", "promise"]
    assert line_to("promise", "a") == ["order", "POST /promises", "promise"]


def test_no_orphans_after_kill_9(collector: Collector, tmp_path: Path) -> None:
    """The README's example, with a kill of everything in the middle: one trace without a gap."""
    with server_at(tmp_path / "server", collector) as server:

        def start(*arguments: str) -> Program:
            return Program(server, tmp_path / "workers", "order_over_two_workers", *arguments)

        with start("shop") as shop:
            shop.wait_for("shop: ready")
            with start("start", "order-1", "apples", "3"):
                before = collector.wait(
                    lambda spans: any(
                        one.attributes.get("troth.promise.id") == "order-1.reservation"
                        for one in spans
                    )
                )
                collector.wait_for("attempt")
                server.kill9()
        server.start()
        with start("warehouse"), start("shop"), start("start", "order-1", "apples", "3") as again:
            assert again.result() == "3 apples from shelf-a for 6"
            spans = collector.wait_for("promise order", "promise reserve", "attempt", "attempt")

    (trace_id,) = {
        one.trace_id for one in before if one.attributes.get("http.route") == "/promises"
    }
    picture = drawn(spans, trace_id)
    print(picture)
    assert not orphans(spans), picture
    assert "(orphan)" not in picture
    ids = [span.span_id for span in spans]
    assert len(ids) == len(set(ids))
    order = named(spans, "promise order")
    assert order.trace_id == trace_id
    assert named(spans, "promise reserve").trace_id == trace_id
    # Its life began before the kill, and is whole.
    assert order.start_ns <= min(span.end_ns for span in before)


def test_no_span_twice_after_replay(collector: Collector, tmp_path: Path) -> None:
    """What was told before a kill is not told again by the start, which reads it all back."""
    with server_at(tmp_path, collector) as server:
        for number in range(20):
            assert create(server, f"p{number}", "g") == 201
            if number % 2:
                assert server.request("PATCH", f"/promises/p{number}", RESOLVED)[0] == 201
        collector.wait_for(*["promise"] * 10)
        server.restart()
        assert create(server, "last", None) == 201
        collector.wait(lambda spans: any(_is_about(one, "last") for one in spans))
        assert server.terminate() == 0

    ids = [span.span_id for span in collector.spans]
    assert len(ids) == len(set(ids))
    assert [span.name for span in collector.spans].count("promise") == 10
    assert [span.name for span in collector.spans].count("POST /promises") == 21


def _is_about(span: SeenSpan, promise_id: str) -> bool:
    return span.attributes.get("troth.promise.id") == promise_id


@pytest.mark.parametrize("status", [400, 401, 404, 500, 501])
def test_retry_only_what_may_be(collector: Collector, tmp_path: Path, status: int) -> None:
    """What the protocol calls final is not tried again; 429 and 503 are, until they work."""
    collector.answer = lambda number: (
        (status if number == 1 else 503 if number == 3 else 429 if number == 4 else 200),
        b"garbage",
        0.0,
    )
    with server_at(tmp_path, collector) as server:
        assert create(server, "refused", None) == 201
        collector.wait(lambda _: collector.requests_count == 1)
        while metric(server, "failed") < 1:
            time.sleep(0.05)
        assert create(server, "taken", None) == 201
        collector.wait(lambda _: collector.requests_count == 2)
        assert create(server, "again", None) == 201
        collector.wait(lambda spans: any(_is_about(one, "again") for one in spans))
        while metric(server, "sent") < 2:
            time.sleep(0.05)
        assert metric(server, "failed") == 1

    assert collector.bodies[2] == collector.bodies[3] == collector.bodies[4]
    assert len({*collector.bodies}) == 3
    assert collector.requests_count == 5


@pytest.mark.parametrize("trouble", ["slow", "dead", "429", "garbage"])
def test_collector_slow_dead_429_garbage(
    collector: Collector, tmp_path: Path, trouble: str
) -> None:
    """No request waits for the collector, and what waits for it is bounded and counted."""
    answers = {"slow": (200, b"", 30.0), "429": (429, b"", 0.0), "garbage": (200, b"\xff" * 9, 0.0)}
    if trouble in answers:
        collector.answer = lambda _: answers[trouble]
    more = {"OTEL_EXPORTER_OTLP_TIMEOUT": "2"}
    if trouble == "dead":
        more["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    with server_at(tmp_path, collector, **more) as server:
        resolved = [create(server, f"p{number}", None) for number in range(100)]
        assert resolved == [201] * 100
        started = time.monotonic()
        assert server.request("GET", "/promises/p1")[0] == 200
        assert time.monotonic() - started < 1.5
        assert metric(server, "dropped") == 0
        started = time.monotonic()
        assert server.terminate() == 0, server.log()
        assert time.monotonic() - started < 20  # 2 s of it for spans, in vain


def test_tracing_off_is_byte_for_byte(collector: Collector, tmp_path: Path) -> None:
    """Without an endpoint nothing is sent or imported, and what goes out is as it always was."""
    given = {"traceparent": "not as W3C wants it", "tracestate": "vendor=1"}
    heads: list[Any] = []
    for off in ({"OTEL_SDK_DISABLED": "true"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}):
        with server_at(tmp_path / str(len(heads)), collector, **off) as server:
            assert create(server, "a", "g", given) == 201
            stream = messages(server, "g")
            next(stream)
            message = next(stream)
            stream.close()
            claim = {"id": "__invoke:a", "counter": 1, "processId": "w1", "ttl": 60_000}
            status, claimed = server.request("POST", "/tasks/claim", claim)
            assert status == 201
            assert "head" not in claimed
            maps = Path(f"/proc/{server.process_id}/maps").read_text()
            assert "google/_upb" not in maps  # the code of protobuf
            assert metric(server, "sent") == metric(server, "dropped") == 0
            heads.append(message["head"])

    assert heads == [given, given]
    assert collector.requests_count == 0


def test_no_secret_in_spans(collector: Collector, tmp_path: Path) -> None:
    """No payload, token, header, query or tag goes out but those that are wanted."""
    with server_at(tmp_path, collector, "--no-trace-ids") as server:
        headers = {
            "Authorization": "Bearer secret-token",
            "Idempotency-Key": "secret-key",
            "User-Agent": "secret-agent",
            "traceparent": PARENT,
        }
        secret = {
            "param": {"data": data(["secret-param"]), "headers": {"x": "secret-header"}},
            "tags": {"resonate:invoke": "poll://any@g", "secret-tag": "secret-text"},
        }
        assert create(server, "secret-id", None, headers, **secret) == 201
        assert server.request("GET", "/promises?id=secret-query*")[0] == 200
        assert server.request("PATCH", "/promises/secret-id", RESOLVED)[0] == 201
        assert (
            server.request("POST", "/promises", {"id": "secret-id", "timeout": "secret"})[0] == 400
        )
        collector.wait_for("promise", "PATCH /promises/{id...}", "POST /promises", "send poll://g")
        assert server.terminate() == 0

    assert b"secret" not in b"".join(collector.bodies)
    assert "secret" not in json.dumps([span.attributes for span in collector.spans])


def test_lines_of_the_log_name_the_trace(collector: Collector, tmp_path: Path) -> None:
    with server_at(tmp_path, collector, "--log-requests", "all", "--log-format", "json") as server:
        assert create(server, "a", None, {"traceparent": PARENT}) == 201
        assert server.request("GET", "/ping")[0] == 200
        spans = collector.wait_for("POST /promises")
        lines = [json.loads(line) for line in server.log().splitlines()]

    (made,) = [line for line in lines if line.get("endpoint") == "createPromise"]
    assert (made["trace_id"], made["span_id"]) == (TRACE_ID, spans[0].span_id)
    assert not any("trace_id" in line for line in lines if line.get("endpoint") == "ping")
