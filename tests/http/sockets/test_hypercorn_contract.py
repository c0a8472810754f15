"""What `http/sockets/hypercorn_connection.py` relies on inside hypercorn.

If a new version fails here, look there.
"""

import importlib.metadata
import inspect

import h11
from hypercorn.config import Config
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.worker_context import WorkerContext


def _parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("hypercorn") == "0.18.0"


def test_the_protocol_is_made_from_these_parts() -> None:
    parts = ["app", "config", "context", "task_group"]
    place = ["ssl", "client", "server", "send"]

    assert _parameters(H11Protocol) == [*parts, "connection_state", *place]
    assert _parameters(HTTPStream) == [*parts, *place, "stream_id"]
    assert STREAM_ID == 1


def test_the_hooks_that_are_overridden_are_called_so() -> None:
    assert _parameters(H11Protocol._check_protocol) == ["self", "event"]
    assert _parameters(H11Protocol._create_stream) == ["self", "request"]
    assert _parameters(H11Protocol._send_error_response) == ["self", "status_code"]
    assert _parameters(H11Protocol._send_h11_event) == ["self", "event"]
    source = inspect.getsource(H11Protocol._handle_events)
    for call in (
        "await self._check_protocol(event)",
        "await self._create_stream(event)",
        "await self._send_error_response(error.error_status_hint)",
        "await self.send(Updated(idle=False))",
        "await self.send(Closed())",
    ):
        assert call in source
    assert "await self.send(Updated(idle=True))" in inspect.getsource(H11Protocol._maybe_recycle)


def test_what_has_come_is_in_a_buffer_that_can_be_looked_at() -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"\r\nx")
    assert connection.their_state is h11.IDLE
    assert connection._receive_buffer._data == b"\r\nx"
    connection._receive_buffer.maybe_extract_at_most(2)
    assert connection._receive_buffer._data == b"x"
    assert "event = self.connection.next_event()" in inspect.getsource(H11Protocol._handle_events)


def test_an_application_is_started_by_the_task_group_and_ended_by_none() -> None:
    source = inspect.getsource(HTTPStream)
    call = "await self.task_group.spawn_app(\n                    self.app, self.config, self.scope"
    assert call in source
    assert "if message is None:  # ASGI App has finished sending messages" in source


def test_the_configuration_has_these_names() -> None:
    config = Config()
    for name in (
        "include_server_header",
        "h11_max_incomplete_size",
        "keep_alive_max_requests",
        "accesslog",
        "errorlog",
    ):
        assert hasattr(config, name)
    assert callable(config.response_headers)
    assert WorkerContext(None).terminated.is_set() is False
