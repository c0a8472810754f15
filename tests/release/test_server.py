"""A server in its simplest use: what it acknowledged is there after it was killed."""

import pytest

from tests.helpers.server import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.newest]


def test_a_promise_outlives_a_killed_server(server: ServerProcess) -> None:
    wanted = {"id": "order-7", "timeout": 4_102_444_800_000}
    status, created = server.request("POST", "/promises", wanted)
    assert status == 201
    server.restart()

    assert server.request("GET", "/promises/order-7") == (200, created)
    status, completed = server.request("PATCH", "/promises/order-7", {"state": "RESOLVED"})
    assert (status, completed["state"]) == (201, "RESOLVED")


def test_pages_and_documents_are_served(server: ServerProcess) -> None:
    assert [server.request("GET", path)[0] for path in ("/", "/docs", "/openapi.json")] == [200] * 3
