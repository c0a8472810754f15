"""A plain HTTP client for what is not measured: setting up, asking for metrics, waiting."""

import base64
import contextlib
import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

TIMEOUT_S = 30.0


class BenchError(Exception):
    """The benchmark cannot go on. `str()` is one line for its user."""


class BenchUnreachable(BenchError):
    """There is no server at the address."""


@dataclass(frozen=True)
class BenchTarget:
    """The server that is measured."""

    host: str
    port: int
    poll_host: str
    poll_port: int
    poll_prefix: str = ""
    authorization: str | None = None
    process_id: int | None = None
    """Of the server, for its processor time and memory; None: not known."""

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"http://{self.host}:{self.port}"

    @classmethod
    def from_urls(
        cls, url: str, poll_url: str | None, user: str | None, process_id: int | None
    ) -> Self:
        """Take addresses as people write them. Raises BenchError.

        Without `poll_url` the streams are asked for at `/poll` of the API. `user` is NAME:PASSWORD.
        """
        host, port, _ = split_url(url)
        poll_host, poll_port, prefix = host, port, "/poll"
        if poll_url is not None:
            poll_host, poll_port, prefix = split_url(poll_url)
        authorization = None
        if user is not None:
            authorization = f"Basic {base64.b64encode(user.encode()).decode()}"
        return cls(host, port, poll_host, poll_port, prefix, authorization, process_id)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and body (JSON, or text) of one request. Raises BenchUnreachable."""
        headers = {"Authorization": self.authorization} if self.authorization else {}
        content = None if body is None else json.dumps(body)
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, content, headers)
                response = connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise BenchUnreachable(
                    f"no server can be reached at {self.url} ({error})"
                ) from error
        if response.headers.get_content_type() == "application/json" and answer:
            return response.status, json.loads(answer)
        return response.status, answer.decode(errors="replace")


def split_url(url: str) -> tuple[str, int, str]:
    """Return host, port and path of an address. Raises BenchError for one that cannot be used."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise BenchError(f"{url!r} is not an address: {error}") from error
    if parts.scheme != "http" or not parts.hostname:
        raise BenchError(f"{url!r} is not an address like http://127.0.0.1:8001")
    return parts.hostname, port, parts.path.rstrip("/")


def free_ports(count: int) -> list[int]:
    """Return free ports. All are held at the same time, so that they differ from each other."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
        return ports
