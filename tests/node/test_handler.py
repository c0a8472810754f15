"""What a handler is given and what becomes of what it returns, in both languages."""

import json
from typing import Final

import pytest

from .conftest import ONE_GROUND, Ground
from .fake_server import Code, javascript, python

pytestmark = [pytest.mark.slow, pytest.mark.seeds]
GROUNDS: Final = ONE_GROUND

_REQUEST: Final = {
    "PY": python(
        "def handle(request):\n"
        "    body = request.Body\n"
        "    kind = 'text' if isinstance(body, str) else 'bytes'\n"
        "    return [kind, len(body), request.Header, request.QueryString, request.Query,\n"
        "            request.Method, request.Host, request.TaskId]\n"
    ),
    "JS": javascript(
        "exports.handle = (r) => [typeof r.Body === 'string' ? 'text' : 'bytes', r.Body.length,"
        " r.Header, r.QueryString, r.Query, r.Method, r.Host, r.TaskId];"
    ),
}
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_BYTES: Final = "application/octet-stream"


def both(in_python: str, in_javascript: str) -> dict[str, Code]:
    """Handlers that return the same expression."""
    return {
        "PY": python(f"def handle(request):\n    return {in_python}\n"),
        "JS": javascript(f"exports.handle = (request) => ({in_javascript});"),
    }


LANGUAGES: Final = pytest.mark.parametrize("language", ["PY", "JS"])


@LANGUAGES
def test_a_request_has_all_its_parts(ground: Ground, language: str) -> None:
    task = ground.server.run(
        _REQUEST[language],
        "größe".encode(),
        query="a=1&b=%20x&a=2&c=",
        method="PUT",
        headers=(("X-One", "1"), ("content-type", "text/plain")),
    )

    assert task.json() == [
        "text",
        5,
        {"x-one": "1", "content-type": "text/plain"},
        "a=1&b=%20x&a=2&c=",
        {"a": "2", "b": " x", "c": ""},
        "PUT",
        "troth.example",
        task.id,
    ]


@LANGUAGES
def test_a_body_that_is_no_text_comes_as_bytes(ground: Ground, language: str) -> None:
    assert ground.server.run(_REQUEST[language], b"\xff\xfe\x00").json()[:2] == ["bytes", 3]


@LANGUAGES
@pytest.mark.parametrize(
    ("codes", "status", "kind", "body"),
    [
        (both("'ä'", "'ä'"), 200, _TEXT, "ä".encode()),
        (both("b'\\0\\xff'", "Buffer.from([0, 255])"), 200, _BYTES, b"\0\xff"),
        (both("None", "undefined"), 200, _JSON, b"null"),
        (both("[1, 'ä']", "[1, 'ä']"), 200, _JSON, '[1,"ä"]'.encode()),
        (both("{'a': 1}", "{a: 1}"), 200, _JSON, b'{"a":1}'),
        (both("{'Body': {'a': 1}}", "{Body: {a: 1}}"), 200, _JSON, b'{"a":1}'),
        (both("{'StatusCode': 204}", "{StatusCode: 204}"), 204, None, b""),
        (
            both("{'StatusCode': 404, 'Body': 'no'}", "{StatusCode: 404, Body: 'no'}"),
            404,
            _TEXT,
            b"no",
        ),
        (
            both(
                "{'Header': {'Content-Type': 'image/png'}, 'Body': b'1'}",
                "{Header: {'Content-Type': 'image/png'}, Body: Buffer.from('1')}",
            ),
            200,
            "image/png",
            b"1",
        ),
        (both("request.Body", "request.Body"), 200, _TEXT, b""),
    ],
)
def test_what_is_returned_is_the_response(
    ground: Ground,
    language: str,
    codes: dict[str, Code],
    status: int,
    kind: str | None,
    body: bytes,
) -> None:
    task = ground.server.run(codes[language])

    assert (task.status, task.headers.get("content-type"), task.body) == (status, kind, body)
    assert task.error is None


@LANGUAGES
@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (both("{'StatusCode': 99}", "{StatusCode: 99}"), "StatusCode must be an integer"),
        (both("{'StatusCode': '200'}", "{StatusCode: '200'}"), "StatusCode must be an integer"),
        (both("1 / 0", "(() => { throw new RangeError('division by zero') })()"), "division"),
        (both("float('nan')", "(() => 1n)()"), ""),
    ],
)
def test_what_cannot_be_returned_is_an_error(
    ground: Ground, language: str, codes: dict[str, Code], message: str
) -> None:
    task = ground.server.run(codes[language])

    assert task.status == 500
    assert message in task.json()["error"]["message"]
    assert task.error is not None


ASYNCHRONOUS: Final = {
    "PY": python(
        "import asyncio\n"
        "async def handle(request):\n    await asyncio.sleep(0.01)\n    return 'late'\n"
    ),
    "JS": javascript(
        "exports.handle = async () => { await new Promise((r) => setTimeout(r, 10));"
        " return 'late'; };"
    ),
}


@LANGUAGES
def test_a_handler_may_be_asynchronous(ground: Ground, language: str) -> None:
    assert ground.server.run(ASYNCHRONOUS[language]).body == b"late"


def test_a_javascript_handler_may_be_a_module(ground: Ground) -> None:
    code = javascript("export async function handle(request) { return 'module'; }", "handler.mjs")

    assert ground.server.run(code).body == b"module"


RAISING: Final = {
    "PY": python(
        "class Odd(Exception): pass\ndef handle(request):\n    raise Odd('very ' + request.Body)\n"
    ),
    "JS": javascript(
        "class Odd extends Error { name = 'Odd' };"
        "exports.handle = (r) => { throw new Odd('very ' + r.Body) };"
    ),
}


@LANGUAGES
def test_an_exception_is_told_and_its_traceback_only_logged(ground: Ground, language: str) -> None:
    task = ground.server.run(RAISING[language], b"odd")

    assert (task.status, task.json()) == (500, {"error": {"type": "Odd", "message": "very odd"}})
    assert task.error == "Odd: very odd"
    assert b"handler." not in task.body
    assert "handler." in ground.node.log().rpartition("a function has printed")[2]


def test_a_python_handler_may_bring_its_modules(ground: Ground) -> None:
    code = python(
        "import helper\ndef handle(request):\n    return helper.word\n", helper="word = 'own'"
    )

    assert ground.server.run(code).body == b"own"


BROKEN: Final = {
    "syntax": (python("def handle(:\n"), "SyntaxError"),
    "module": (python("import nonexistent\n"), "ModuleNotFoundError"),
    "nothing": (python("handle = 1\n"), "TypeError"),
    "exit": (python("import os\nos._exit(3)\n"), "LoadingFailed"),
    "polite exit": (python("import sys\nsys.exit(3)\n"), "SystemExit"),
    "javascript": (javascript("exports.handle = (\n"), "SyntaxError"),
    "no function": (javascript("exports.other = 1;\n"), "TypeError"),
    "javascript exit": (javascript("process.exit(3)\n"), "LoadingFailed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_code_that_cannot_be_loaded_says_so(ground: Ground, name: str) -> None:
    code, kind = BROKEN[name]

    task = ground.server.run(code)

    assert task.status == 500
    assert task.json()["error"]["type"] == kind
    assert "code" in task.json()["error"]["message"]
    ground.assert_well()


def test_loading_counts_against_the_time(ground: Ground) -> None:
    code = python("import time\ntime.sleep(60)\n")

    task = ground.server.run(code, timeout_s=1)

    assert (task.status, task.json()["error"]["type"]) == (504, "TimedOut")
    ground.assert_well()


def test_what_is_loaded_is_loaded_once(ground: Ground) -> None:
    code = python("import os\nloaded = os.urandom(8).hex()\ndef handle(request): return loaded\n")

    # One for each slot, at most.
    assert len({ground.server.run(code).body for _ in range(6)}) <= 2


@LANGUAGES
def test_progress_is_reported(ground: Ground, language: str) -> None:
    codes = {
        "PY": python(
            "import time\ndef handle(request):\n"
            "    request.progress(250 / 6)\n    time.sleep(2)\n    return 'done'\n"
        ),
        "JS": javascript(
            "exports.handle = (request) => { request.progress(41.7);"
            " return new Promise((r) => setTimeout(() => r('done'), 2000)); };"
        ),
    }

    task = ground.server.run(codes[language])

    assert task.body == b"done"
    assert set(task.progress) == {41}


def test_what_is_printed_is_logged_and_is_no_result(ground: Ground) -> None:
    code = python("def handle(request):\n    print('said aloud')\n    return json\nimport json\n")

    task = ground.server.run(code)

    assert json.loads(task.body)["error"]["type"] == "TypeError"
    assert "said aloud" in ground.node.log()
