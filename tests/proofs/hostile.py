"""The server under attack, what the description says can be attacked, and what a refusal is.

Paths, methods and example bodies come from `/openapi.json`, so whatever is added to the API is
attacked too.
"""

import functools
import http.client
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.helpers.server import ServerProcess

from .corpus import METHODS
from .support import FAR_MS, Client, search_all
from .wire import Answer, Hangup, Wire, memory_bytes

MIB: Final = 1024 * 1024
BODY_LIMIT_BYTES: Final = 4 * MIB
MEMORY_GROWTH_LIMIT_BYTES: Final = 150 * MIB
REFUSALS: Final = {*range(400, 432), 501, 505}
ACCOUNTS: Final = ("/admin/accounts", "/admin/tokens")
"""What these begin with is about accounts: the first one ends that nobody needs credentials."""

ENVELOPES: Final = "/"
"""Where requests of the envelope protocol go."""

_JSON: Final = "application/json"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


class Target(ServerProcess):
    """The server under attack, and how many things it says it has created."""

    headers: Mapping[str, str] = {}
    """What every request of the attackers has."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.created_count = 0

    def contents_count(self) -> int:
        """How many promises and schedules there are."""
        with Client(self.url, headers=self.headers) as client:
            return len(search_all(client)) + len(search_all(client, kind="schedules"))

    def document(self) -> Any:
        """What the server says about its API."""
        return self.request("GET", "/openapi.json")[1]


def watched(target: Target) -> Iterator[Target]:
    """The server, which must be well before and after; the body of a fixture."""
    before_count = target.contents_count()
    before_bytes = memory_bytes(target.process_id)
    target.created_count = 0
    yield target
    started = time.monotonic()
    assert target.request("GET", "/health")[0] == 200
    assert time.monotonic() - started < 1
    body = {"id": f"well{time.monotonic_ns()}", "timeout": FAR_MS}
    assert target.request("POST", "/promises", body, target.headers)[0] == 201
    assert target.contents_count() == before_count + target.created_count + 1
    assert memory_bytes(target.process_id) < before_bytes + MEMORY_GROWTH_LIMIT_BYTES
    assert "Traceback" not in target.log()


def assert_refused(answer: Answer, what: object = "") -> None:
    """A refusal says what it is, in the usual form."""
    assert answer.status in REFUSALS, (what, answer)
    assert answer.headers["content-type"] == "application/json; charset=utf-8", (what, answer)
    error = answer.json["error"]
    assert error["code"] // 100 == answer.status, (what, answer)
    assert error["message"]
    assert error["details"]


def assert_envelope_refused(answer: Answer, what: object = "") -> None:
    """A refusal on `POST /` is an envelope, and says nothing else than its HTTP status."""
    assert answer.status in REFUSALS, (what, answer)
    assert answer.headers["content-type"] == "application/json; charset=utf-8", (what, answer)
    envelope = answer.json
    assert envelope.keys() == {"kind", "head", "data"}, (what, answer)
    assert envelope["head"]["status"] == answer.status, (what, answer)
    assert envelope["data"], (what, answer)
    assert isinstance(envelope["data"], str), (what, answer)


def assert_taker_refused(taker: "Taker", answer: Answer, what: object = "") -> None:
    """A refusal comes in the form that the clients of an operation understand."""
    check = assert_envelope_refused if taker.template == ENVELOPES else assert_refused
    check(answer, (taker, what))


class Caller:
    """Sends bodies as they are on a keep-alive connection."""

    def __init__(self, target: Target, headers: Mapping[str, str] | None = None) -> None:
        """Connect when it is needed; send these headers, not the target's."""
        port = int(target.url.rpartition(":")[2])
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = target.headers if headers is None else headers

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request."""
        self._connection.request(method, path, body, {**self._headers, **(headers or {})})
        response = self._connection.getresponse()
        names = {name.lower(): text for name, text in response.getheaders()}
        return Answer(response.status, names, response.read())

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class RawCaller:
    """Sends request lines as they are, on one connection for as long as the server keeps it."""

    def __init__(self, target: Target) -> None:
        """Connect when it is needed."""
        self._url = target.url
        lines = [f"{name}: {text}\r\n" for name, text in target.headers.items()]
        self._rest = f" HTTP/1.1\r\nHost: x\r\n{''.join(lines)}\r\n".encode()
        self._wire: Wire | None = None

    def call(self, method: str, path: bytes) -> Answer:
        """One request without a body. Raises `Hangup` if it is not answered."""
        is_new = self._wire is None
        wire = self._wire = self._wire or Wire(self._url)
        wire.send(method.encode() + b" " + path + self._rest)
        try:
            answer = wire.answer(without_body=method == "HEAD")
        except Hangup:
            self.close()
            if is_new:
                raise
            return self.call(method, path)  # the server had ended the connection before
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Hang up."""
        if self._wire is not None:
            self._wire.socket.close()
            self._wire = None


@dataclass(frozen=True)
class Taker:
    """An operation that takes a body: JSON like the example, or (no example) any bytes."""

    method: str
    template: str
    example: Any = None

    @property
    def is_raw(self) -> bool:
        """Whether it takes bytes rather than what a schema says."""
        return self.example is None


def takers_of(document: Any) -> list[Taker]:
    """Every operation that takes a body."""
    found = []
    for template, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                content = operation["requestBody"]["content"]
                # Anything in JSON, a list, or no JSON: the endpoint reads the bytes itself.
                described = content.get(_JSON, {})
                schema = described.get("schema", {})
                is_raw = schema.keys() <= {"description"} or schema.get("type") == "array"
                example = None if is_raw else _example(described, document)
                found.append(Taker(method.upper(), template, example))
    return found


def resolved(part: Any, document: Any) -> Any:
    """A part of a document, or what it refers to among the components."""
    while "$ref" in part:
        _, kind, name = part["$ref"].rsplit("/", 2)
        part = document["components"][kind][name]
    return part


def _example(content: Any, document: Any) -> Any:
    if "example" in content:
        return content["example"]
    schema = resolved(content["schema"], document)
    if "example" in schema:
        return schema["example"]
    if "examples" in schema:
        return schema["examples"][0]
    return {
        name: _example({"schema": inner}, document)
        for name, inner in schema.get("properties", {}).items()
    }


def names_in(template: str) -> list[str]:
    """The names of a template's parameters."""
    return _PARAMETER.findall(template)


def filled(template: str, values: Mapping[str, str]) -> str:
    """A path: each parameter with its value, or with `x`, or `1` if it is a counter."""
    known = {"counter": "1", **values}
    return _PARAMETER.sub(lambda found: known.get(found[1], "x"), template)


def is_path_of(path: str, template: str, *, with_slashes: bool = False) -> bool:
    """Whether a path fits a template, each parameter being one segment, or whatever you like.

    Which ids may hold slashes, the description says only in words.
    """
    return _pattern(template, ".*" if with_slashes else "[^/]+").fullmatch(path) is not None


def try_every_method(target: Target, values: Mapping[str, str]) -> None:
    """Send every method, without a body, to every path of the API, and to one that is none.

    A method that no template has which the path fits is refused with 405. All that remains changes
    nothing without a body: so the operations that a path is there for are left out.
    """
    paths = {path: set(operations) for path, operations in target.document()["paths"].items()}
    raw = RawCaller(target)
    for template, own in {**paths, "/nothing": set[str]()}.items():
        path = filled(template, values)
        known = own.union(*(known for other, known in paths.items() if is_path_of(path, other)))
        perhaps = known.union(
            *(more for other, more in paths.items() if is_path_of(path, other, with_slashes=True))
        )
        for method in METHODS:
            if method.lower() in own and method.isupper():
                continue
            answer = raw.call(method, path.encode())
            what = (method, path, answer)
            if method == "HEAD" and "get" in perhaps:
                assert not answer.body, what  # it is GET, or, for what changes something, 405
                continue
            is_known = method.isupper() and method.lower() in known
            is_perhaps = method.isupper() and method.lower() in perhaps
            if method == "OPTIONS" and answer.status == 204:
                pass
            elif template == "/nothing":
                assert answer.status == 404, what
            elif not is_perhaps:
                assert answer.status == 405, what
            elif is_known:
                assert answer.status != 405, what
            if answer.status in {204, 405}:
                allowed = {name.strip().lower() for name in answer.headers["allow"].split(",")}
                assert allowed >= known, what
            if answer.status != 204 and method != "HEAD":
                assert_refused(answer, what)
    raw.close()


@functools.cache
def _pattern(template: str, value: str) -> re.Pattern[str]:
    literals = [re.escape(part) for part in _PARAMETER.split(template)[::2]]
    return re.compile(value.join(literals), re.DOTALL)
