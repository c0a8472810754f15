"""An answer that comes before the body has been sent reaches clients that read only afterwards."""

import http.client
from urllib.parse import urlsplit

import pytest

from tests.helpers.server import ServerProcess

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("path", "size_bytes", "status"),
    [
        ("/promises", 5 * MEBIBYTE, 413),
        ("/promises", 15 * MEBIBYTE, 413),
        ("/promises", 40 * MEBIBYTE, 413),
        ("/v1/build/6405942c9956fae80d7e0e91", 15 * MEBIBYTE, 413),
    ],
)
def test_a_body_that_is_refused_from_its_head_is_not_a_broken_pipe(
    shared_server: ServerProcess, path: str, size_bytes: int, status: int
) -> None:
    address = urlsplit(shared_server.url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    try:
        # It sends everything before it looks whether there is an answer.
        connection.request("POST", path, bytes(size_bytes), {"Content-Type": "application/json"})
        response = connection.getresponse()

        assert response.status == status
        assert b'"error"' in response.read()
    finally:
        connection.close()
