"""Hostile input from somebody who has an account: functions, tags, builds, tasks and nodes.

As in test_hostile.py, but every request has a token with all scopes that an account can have, and
names what is there: a function, a tag, a build, a task and a node of its own. So what is attacked
is the code behind the credentials. Nothing may be counted wrong, and what there is must still work.
"""

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from tests.helpers.zips import plain_zip

from .corpus import BODIES, wrong_fields
from .hostile import (
    ACCOUNTS,
    BODY_LIMIT_BYTES,
    Caller,
    RawCaller,
    Taker,
    Target,
    assert_refused,
    filled,
    names_in,
    resolved,
    takers_of,
    try_every_method,
    watched,
)
from .support import Client, search_all
from .wire import Answer, Wire

pytestmark = pytest.mark.slow

SCOPES: Final = [
    *("promises:read", "promises:write", "functions:read", "functions:write"),
    *("tasks:read", "tasks:write", "node", "metrics:read"),
]
NODE_ID: Final = "1a061cfd-df01-4b02-a067-5122c5941e15"
NODE: Final = {"languages": ["PY"], "cpuCount": 4, "memSize": 2048, "networkLatency": 1}
COUNTED: Final = ("/v1/function/list", "/v1/tag/list", "/v1/node/list", "/v1/task/list?limit=1000")
CREATING: Final = {"/v1/function", "/v1/tag", "/v1/task/{id}"}
JSON: Final = {"Content-Type": "application/json"}
ZIP: Final = {"Content-Type": "application/octet-stream"}

NO_FIELDS: Final = {"empty", "space", "null", "object", "many keys", "many digits"}
"""Bodies without a known field: requests, where every field may be absent."""

PIECES: Final = (
    *(b"%%%02x" % value for value in (*range(0x21), *b"%/?#+&;'", 0x7F, 0x80, 0xC3, 0xFF)),
    *(bytes([value]) for value in (*b"!\"$&'()*+,-.:;<=>@[\\]^_`{|}~", 0x7F, 0x80, 0xC3, 0xFF)),
    *(b"%zz", b"%", b"%2", b"..", b"../..", b"%2e%2e%2f" * 20, b"a/b", b"/", b"//", b";x=1"),
    *(b"x" * 1_025, b"x" * 20_000, b"/" * 20_000, b"9" * 5_000, b"list", b"-1", b"0" * 24),
    *("\u00e9\u2028\U0001f642".encode(), b"%ed%a0%80", b"%c0%af", b"*", b"{id}", b"f" * 25),
    *(b"6405942C9956FAE80D7E0E91", NODE_ID.upper().encode() + b"%00"),
)
"""What a segment of a path may look like: odd bytes, too much, and what looks like an id."""

QUERY_VALUES: Final = (
    *("", "0", "-1", "0.01", "1e3", "%2B1", "%201", "1_0", "9" * 30, "9" * 5_000, "NaN", "x", "*"),
    *("%00", "%ff", "%", "%zz", "%d9%a3", "&", "&&=", "x" * 20_000, "0&1=1", "[]", "%7B%7D"),
    *("%22", "1;2", "..", "null", "true"),
)
RESULT_HEADERS: Final[tuple[dict[str, str], ...]] = (
    *({"Troth-Status": given} for given in ("", "2", "99", "1000", "-20", "abc", "2e2", "2000")),
    *(
        {"Troth-Status": "200", name: given}
        for name in ("Troth-Headers", "Troth-Error")
        for given in ("x", "=", "%%%", "A" * 9_001, base64.b64encode(b"\xff\xfe").decode())
    ),
    *(
        {"Troth-Status": "200", "Troth-Headers": base64.b64encode(text).decode()}
        for text in (b"{}", b"7", b"[7]", b"[[]]", b'[["a"]]', b'[["a", 7]]', b"[" * 3_000, b"NaN")
    ),
)
"""What a node may say about a result, all of it wrong."""


class Tenant(Target):
    """A server with an account, and what it has."""

    values: Mapping[str, str] = {}
    """What parameters of paths are filled with: things that are there."""

    def operator(self) -> dict[str, str]:
        """The headers of whoever runs the server."""
        return {"Authorization": (self.data / "admin.key").read_text().strip()}

    def connection(self) -> Client:
        """A connection with the token."""
        return Client(self.url, headers=self.headers)

    def contents_count(self) -> int:
        """How many things there are that cannot be made unnoticed."""
        with self.connection() as client:
            lists = [client.call("GET", path) for path in COUNTED]
            assert all(status == 200 for status, _ in lists), lists
            return sum(len(found) for _, found in lists) + len(search_all(client))

    def path(self, taker: Taker) -> str:
        """A path of something that is there: a function, where a task of it is created."""
        is_creation = taker.template == "/v1/task/{id}"
        changes = {"id": self.values["functionId"]} if is_creation else {}
        return filled(taker.template, {**self.values, **changes})


def made(client: Client, path: str, body: object = None) -> str:
    """Make something; its id."""
    status, answer = client.call("POST", path, body)
    assert status == 201, answer
    return "" if answer is None else str(answer["id"])


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    """One server for all attacks, with an account that has one of everything."""
    with Tenant(tmp_path_factory.mktemp("attacked"), "--body-timeout-ms", "1000") as tenant:
        with Client(tenant.url, headers=tenant.operator()) as operator:
            made(operator, "/admin/accounts", {"name": "attacker"})
            wanted = {"account": "attacker", "scopes": SCOPES}
            token = operator.call("POST", "/admin/tokens", wanted)[1]["token"]
        tenant.headers = {"Authorization": f"Bearer {token}"}
        with tenant.connection() as client:
            wanted = {"name": "f", "type": "CODE", "lang": "PY"}
            function_id = made(client, "/v1/function", wanted)
            build_id = upload(client, tenant, function_id)
            label_id = made(client, "/v1/tag", {"name": "t"})
            made(client, f"/v1/node/{NODE_ID}", NODE)
            tenant.values = {
                "functionId": function_id,
                "buildId": build_id,
                "tagId": label_id,
                "hash": NODE_ID,
                "id": made(client, f"/v1/task/{function_id}"),
            }
        yield tenant


def upload(client: Client, tenant: Tenant, function_id: str) -> str:
    """Give a function code, and wait until it is checked; the build's id."""
    archive = plain_zip({"handler.py": "def handle(event, context):\n    return 'well'\n"})
    caller = Caller(tenant)
    answer = caller.call("POST", f"/v1/build/{function_id}?arch=amd64", archive, ZIP)
    caller.close()
    assert answer.status == 201, answer
    build_id = str(answer.json["id"])
    deadline = time.monotonic() + 20
    while (status := client.call("GET", f"/v1/build/{build_id}")[1]["status"]) == "PENDING":
        assert time.monotonic() < deadline, "the build is not checked"
        time.sleep(0.02)
    assert status == "SUCCESS"
    return build_id


@pytest.fixture
def target(attacked: Tenant) -> Iterator[Target]:
    """The server, which must be well before and after."""
    yield from watched(attacked)


@pytest.fixture
def caller(target: Tenant) -> Iterator[Caller]:
    """A connection for bodies."""
    calling = Caller(target)
    yield calling
    calling.close()


@pytest.fixture(scope="module")
def takers(attacked: Tenant) -> list[Taker]:
    """Every operation under /v1 that takes a body."""
    found = [one for one in takers_of(attacked.document()) if one.template.startswith("/v1/")]
    assert len(found) >= 10, found
    assert sum(taker.is_raw for taker in found) >= 3, found
    return found


def check(target: Target, taker: Taker, answer: Answer, what: object) -> None:
    """An answer is a refusal, or something was made or changed, and is counted."""
    if answer.status >= 300:
        assert_refused(answer, (taker, what))
    elif answer.status == 201 and taker.template in CREATING:
        target.created_count += 1


def test_no_body_that_is_no_request_hurts(
    target: Tenant, caller: Caller, takers: list[Taker]
) -> None:
    for taker in takers:
        for name, body in BODIES.items():
            for headers in (JSON, ZIP):
                answer = caller.call(taker.method, target.path(taker), body, headers)
                check(target, taker, answer, name)
                if not taker.is_raw and name not in NO_FIELDS:
                    assert_refused(answer, (taker, name))


def test_no_field_can_be_wrong_in_a_way_that_hurts(
    target: Tenant, caller: Caller, takers: list[Taker]
) -> None:
    refused_count = 0
    for taker in takers:
        for name, body in wrong_fields(taker.example or {}):
            answer = caller.call(taker.method, target.path(taker), body, JSON)
            check(target, taker, answer, name)
            assert b"\\ud800" not in answer.body, (taker, name)
            refused_count += answer.status >= 300
    assert refused_count > 300


def test_no_field_that_the_operator_sends_can_be_wrong_in_a_way_that_hurts(target: Tenant) -> None:
    caller = Caller(target, target.operator())
    refused_count = 0
    for taker in takers_of(target.document()):
        if taker.template.startswith(ACCOUNTS):
            for name, body in wrong_fields(taker.example):
                answer = caller.call(taker.method, filled(taker.template, {}), body)
                if answer.status >= 300:
                    assert_refused(answer, (taker, name))
                    refused_count += 1
    caller.close()
    assert refused_count > 50


def test_a_body_beyond_the_limit_is_refused(target: Tenant, takers: list[Taker]) -> None:
    for taker in takers:
        credentials = target.headers["Authorization"]
        path = target.path(taker)
        head = f"{taker.method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {credentials}\r\n"
        with Wire(target.url) as wire:
            wire.send(f"{head}Content-Length: {BODY_LIMIT_BYTES + 1}\r\n\r\n{{".encode())
            answer = wire.answer()
            assert_refused(answer, taker)
            assert answer.status == 413
        with Wire(target.url) as wire:
            chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
            wire.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 5)
            assert wire.answer().status == 413


def test_no_piece_of_a_path_hurts(target: Tenant) -> None:
    """Every parameter of every template, one at a time; the others name what is there."""
    raw = RawCaller(target)
    for template, operations in target.document()["paths"].items():
        if not template.startswith("/v1/"):
            continue
        for name in names_in(template):
            others = {key: value for key, value in target.values.items() if key != name}
            others[name] = "@@"
            before, _, after = filled(template, others).encode().partition(b"@@")
            for method in operations:
                for piece in PIECES:
                    answer = raw.call(method.upper(), before + piece + after)
                    if not is_list(method, before + piece + after, answer):
                        assert_refused(answer, (method, template, name, piece[:40]))
    raw.close()


def is_list(method: str, path: bytes, answer: Answer) -> bool:
    """Whether what was to be an id was the name of a list."""
    return method == "get" and answer.status == 200 and path.endswith(b"/list")


def test_no_query_hurts(target: Tenant) -> None:
    raw = RawCaller(target)
    refused_count = 0
    document = target.document()
    for template, operations in document["paths"].items():
        wanted = [
            resolved(one, document) for one in operations.get("get", {}).get("parameters", ())
        ]
        names = [one["name"] for one in wanted if one["in"] == "query"]
        if template.startswith("/v1/"):
            path = filled(template, target.values)
            for name in (*names, "%00"):
                for value in QUERY_VALUES:
                    if not path.endswith("/work"):
                        answer = raw.call("GET", f"{path}?{name}={value}".encode())
                        if answer.status >= 300:
                            assert_refused(answer, (path, name, value[:40]))
                            refused_count += 1
    raw.close()
    assert refused_count > 100


def test_every_method_on_every_path_is_taken_or_refused(target: Tenant) -> None:
    try_every_method(target, target.values)


def test_a_node_cannot_send_a_result_that_hurts(target: Tenant, caller: Caller) -> None:
    """A node that holds a task can end it well even after all that."""
    credentials = target.headers["Authorization"]
    path = f"/v1/node/{NODE_ID}"
    # What it offers and whether it is given tasks, other attacks may have changed.
    assert caller.call("POST", path, json.dumps(NODE).encode(), JSON).status == 201
    enabled = b'{"disabled": false, "draining": false}'
    assert caller.call("PATCH", path, enabled, JSON).status == 200
    with Wire(target.url) as stream:
        head = f"GET {path}/work HTTP/1.1\r\nHost: x\r\nAuthorization: {credentials}\r\n\r\n"
        stream.send(head.encode())
        came = b""
        while (found := re.search(rb'"task":(\{.*?\})', came)) is None:
            came += stream.socket.recv(65_536)
        task = json.loads(found[1])
        answer = caller.call("POST", f"{path}/assign", json.dumps(task).encode(), JSON)
        assert answer.status == 201, answer
        result_path = f"{path}/result/{task['id']}/{task['counter']}"
        for headers in ({}, *RESULT_HEADERS):
            assert_refused(caller.call("POST", result_path, b"{}", headers), headers)
        assert caller.call("GET", f"/v1/task/{task['id']}").json["finished"] == ""

        answer = caller.call("POST", result_path, b"well", {"Troth-Status": "200"})
        assert answer.status == 201, answer
        assert caller.call("GET", f"/v1/task/{task['id']}/result").body == b"well"
