"""Clients of a server of three processes, and ids by the group that they live in."""

import http.client
import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.helpers.server import ServerProcess
from troth.persistence.placement import DEFAULT_RULE, by_rule, dealt_shards, groups_by_shard

FAR_MS = 4_102_444_800_000
SHARDS_COUNT = 16
VERSION = "2026-04-01"


class Client:
    """A connection, which one process has accepted."""

    def __init__(self, server: ServerProcess, timeout_s: float = 60.0) -> None:
        parts = urlsplit(server.url)
        assert parts.hostname is not None
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        self.connection.connect()
        self.headers: dict[str, str] = {}
        """Of the last answer."""

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send a request; return status and body."""
        self.send(method, path, body, headers)
        return self.receive()

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a request."""
        sent = None if body is None else json.dumps(body)
        sent_headers = {"Content-Type": "application/json", **(headers or {})}
        self.connection.request(method, path, sent, sent_headers)

    def receive(self) -> tuple[int, Any]:
        """Wait for the answer."""
        answer = self.connection.getresponse()
        content = answer.read()
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(content) if content else None

    def envelope(self, kind: str, **data: object) -> tuple[int, Any]:
        """Send a request of the envelope protocol; return the status and what was found."""
        head = {"corrId": secrets.token_hex(4), "version": VERSION}
        _, body = self.ask("POST", "/", {"kind": kind, "head": head, "data": data})
        return body["head"]["status"], body["data"]


def ids_by_group(word: str, count: int = 1) -> list[list[str]]:
    """Return new ids of promises that live in each of the three groups."""
    word = f"{word}-{secrets.token_hex(4)}"
    shard_of = by_rule(DEFAULT_RULE, SHARDS_COUNT)
    groups = groups_by_shard(dealt_shards(SHARDS_COUNT, 3))
    found: list[list[str]] = [[], [], []]
    number = 0
    while any(len(ids) < count for ids in found):
        number += 1
        identifier = f"{word}-{number}x"
        ids = found[groups[shard_of(identifier)]]
        if len(ids) < count:
            ids.append(identifier)
    return found
