"""A worker for tests that makes spans with OpenTelemetry's SDK, as programs of users do.

It claims by REST what its stream brings, continues the trace that the message carries, makes a
promise of its own on behalf of the task, and completes both.
"""

import base64
import json
import threading
import urllib.request
from collections.abc import Generator
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.helpers.server import ServerProcess

from .collector import Collector

FAR_MS: Final = 9_999_999_999_999


def data(value: object) -> str:
    """Return JSON as the data of a payload."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def create(
    server: ServerProcess,
    promise_id: str,
    group: str | None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> int:
    """Create a promise, with a task for a group; return the status."""
    tags = {"resonate:invoke": f"poll://any@{group}"} if group else {}
    body = {"id": promise_id, "timeout": FAR_MS, "tags": tags, **more}
    return server.request("POST", "/promises", body, headers)[0]


def messages(server: ServerProcess, group: str) -> Generator[dict[str, Any], None, None]:
    """Yield what a stream brings; the first is an empty one, when it is open."""
    with urllib.request.urlopen(f"{server.poll_url}/{group}/1", timeout=60) as stream:
        yield {}
        for line in stream:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


class Tracer:
    """A client or worker with the SDK, whose spans go to the collector at once."""

    def __init__(self, collector: Collector, name: str) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        url = f"{collector.environment['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces"
        self._provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(url)))
        self.tracer = self._provider.get_tracer("test")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._provider.shutdown()


def headers_here() -> dict[str, str]:
    """Return the headers that hand the present span on."""
    headers: dict[str, str] = {}
    inject(headers)
    return headers


def work_once(server: ServerProcess, tracer: Tracer, group: str, opened: threading.Event) -> None:
    """Take one task, make a child of it, and complete everything."""
    for message in messages(server, group):
        if not message:
            opened.set()
            continue
        task = message["task"]
        with tracer.tracer.start_as_current_span("work", context=extract(message["head"])):
            about = {"id": task["id"], "counter": task["counter"]}
            claim = {**about, "processId": "w1", "ttl": 60_000}
            status, claimed = server.request("POST", "/tasks/claim", claim, headers_here())
            assert status == 201
            assert claimed["head"] == message["head"]
            child = f"{task['rootPromiseId']}-child"
            fence = {"Task-Id": task["id"], "Task-Counter": str(task["counter"])}
            assert create(server, child, None, fence) == 201
            resolved = {"state": "RESOLVED", "value": {"data": data("done")}}
            for promise_id in (child, task["rootPromiseId"]):
                done = server.request("PATCH", f"/promises/{promise_id}", resolved, headers_here())
                assert done[0] == 201
        return
