"""Requests for the rows of the lane, good or bad in one of many ways.

They go to two servers, at slightly different moments. So nothing that they ask for ends while the
tests run, or has its name from the time.
"""

import json
import random
import re
from typing import Any, Final

from tests.proofs.corpus import wrong_fields
from troth.http.documents.table import API_ENDPOINTS
from troth.http.sockets.lane_served import LANE_GROUPS
from troth.http.wire.fields import example

CHOOSING: Final = frozenset({"Bulk jobs", "Sessions"})
"""Groups whose answers have ids and secrets that the server has chosen."""


LASTING: Final = frozenset({"ttl", "promiseTimeout"})
"""Fields that say how long something lasts: longer than the tests do, since it would end at another
moment on either server, and be seen by one and not by the other."""
DAY_MS: Final = 86_400_000
TIMESTAMP: Final = ".{{.timestamp}}"
"""Names a promise by the time; two runs in one millisecond are one."""


def lasting(body: Any) -> Any:
    """A good body, about what stays as it is while the tests run."""
    if isinstance(body, str):
        return body.removesuffix(TIMESTAMP)
    if not isinstance(body, dict):
        return body
    return {name: DAY_MS if name in LASTING else lasting(value) for name, value in body.items()}


def mutants_of(good: Any) -> list[bytes]:
    """Bodies that are wrong in one place, or good after all, and short enough for many."""
    return [
        made
        for name, made in wrong_fields(good)
        if len(made) < 100_000 and LASTING.isdisjoint(name.partition(" ")[0].split("."))
    ]


def random_request(chance: random.Random) -> bytes:
    """A request for a row of the lane, good or bad in one of many ways."""
    row = chance.choice([row for row in API_ENDPOINTS if row.group in LANE_GROUPS - CHOOSING])
    name = chance.choice(["a", "b/c", "ä%2F", "%2e%2e", "a%00b", "%zz", "", "x" * 20, "r.1"])
    path = re.sub(r"\{id\.\.\.\}", name, row.path).replace("{counter}", chance.choice("01x"))
    path = path.encode("ascii", "replace").decode()
    if row.method == "GET":
        queries = ["", "?", "?id=*", "?id=a&limit=2", "?id=*&state=x", "?limit=0&id=%"]
        if row.path == "/timers":
            queries.remove("?id=a&limit=2")  # the order of what is due together would matter
        path += chance.choice(queries)
    headers = {
        key: chance.choice(values)
        for key, values in {
            "Request-Id": ["one", "", "ünü", "x" * 300, "a\tb", "zwei drei"],
            "Idempotency-Key": ["", "k", "k2", "k" * 5000],
            "Strict": ["true", "false", "yes", ""],
            "Task-Id": ["__invoke:a", ""],
            "Task-Counter": ["1", "x", ""],
            "traceparent": ["00-1-2-01"],
            "Connection": ["keep-alive", "Keep-Alive"],
            "Content-Type": ["text/plain", "application/json"],
            "Origin": ["http://elsewhere", "http://friend", "http://troth"],
            "Authorization": ["Basic eDp5", "Basic eDp6", "basic  eDp5", "Basic !", "Bearer x"],
        }.items()
        if chance.random() < (0.5 if key == "Authorization" else 0.15)
    }
    body = None
    if row.body is not None:
        good = lasting(example(row.body))
        if chance.random() < 0.5:
            body = json.dumps(good).encode()
        else:
            body = chance.choice([*mutants_of(good), b"", b"null", b"[]", b"{", b"\xff"])
    elif chance.random() < 0.1:
        body = b"{}"
    return request(row.method, path, body, headers)


def request(
    method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: troth\r\n".encode()
    for name, value in (headers or {}).items():
        head += f"{name}: {value}\r\n".encode()
    if body is not None:
        head += b"Content-Length: %d\r\n" % len(body)
    return head + b"\r\n" + (body or b"")
