"""Results that JSON cannot hold: sent as what they are, or refused by name, never left out."""

from typing import Final

import pytest

from tests.node.conftest import ONE_GROUND, Ground
from tests.node.fake_server import javascript, python

pytestmark = [pytest.mark.slow, pytest.mark.seeds]
GROUNDS: Final = ONE_GROUND

_TEXT: Final = "text/plain;charset=utf-8"
_BYTES: Final = "application/octet-stream"
_FORM: Final = "application/x-www-form-urlencoded;charset=utf-8"


@pytest.mark.parametrize(
    ("returned", "status", "headers", "body"),
    [
        (
            "new Response('hi', {status: 201, headers: {'x-one': '1'}})",
            201,
            {"x-one": "1", "content-type": _TEXT},
            b"hi",
        ),
        ("new Response(null, {status: 204})", 204, {}, b""),
        (
            "Response.json({a: [1]}, {status: 202})",
            202,
            {"content-type": "application/json"},
            b'{"a":[1]}',
        ),
        ("new Response(new Uint8Array([0, 255]))", 200, {"content-type": _BYTES}, b"\0\xff"),
        ("new Uint16Array([1])", 200, {"content-type": _BYTES}, b"\1\0"),
        ("new DataView(new ArrayBuffer(2))", 200, {"content-type": _BYTES}, b"\0\0"),
        ("new SharedArrayBuffer(2)", 200, {"content-type": _BYTES}, b"\0\0"),
        ("new Blob(['<p>'], {type: 'text/html'})", 200, {"content-type": "text/html"}, b"<p>"),
        ("new URLSearchParams({a: 'b c'})", 200, {"content-type": _FORM}, b"a=b+c"),
        ("new Response('in it').body", 200, {"content-type": _BYTES}, b"in it"),
        (
            "require('node:stream').Readable.from(['one ', Buffer.from('two')])",
            200,
            {"content-type": _BYTES},
            b"one two",
        ),
        ("(async function* () { yield 'a'; yield 'b'; })()", 200, {"content-type": _BYTES}, b"ab"),
        (
            "{Body: new Blob(['x'], {type: 'image/png'}), Header: new Headers({'x-two': '2'})}",
            200,
            {"x-two": "2", "content-type": "image/png"},
            b"x",
        ),
        (
            "{StatusCode: 200, Header: new Map([['x-one', ['1', '2']], ['x-three', 3]])}",
            200,
            {"x-one": "2", "x-three": "3"},
            b"",
        ),
        (
            "new (class Order { constructor() { this.id = 7; this.at = new Date(0); } })()",
            200,
            {"content-type": "application/json"},
            b'{"id":7,"at":"1970-01-01T00:00:00.000Z"}',
        ),
        (
            "{list: [], empty: {}, none: undefined, boxed: new Number(1), bare: {__proto__: null}}",
            200,
            {"content-type": "application/json"},
            b'{"list":[],"empty":{},"boxed":1,"bare":{}}',
        ),
    ],
)
def test_what_the_web_teaches_is_sent_as_what_it_is(
    ground: Ground, returned: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    task = ground.server.run(javascript(f"exports.handle = () => ({returned});"))

    sent = {name: text.lower().replace("; ", ";") for name, text in task.headers.items()}
    assert (task.status, sent, task.body) == (status, headers, body)
    assert task.error is None


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("new Map([[1, 2]])", "the result is a Map, which JSON cannot hold"),
        ("{items: new Set([1])}", "the result.items is a Set, which JSON cannot hold"),
        ("{a: [{b: 1n}]}", "the result.a.0.b is a bigint"),
        ("[Number.NaN]", "the result.0 is NaN"),
        ("{far: -Infinity}", "the result.far is -Infinity"),
        ("Symbol('x')", "the result is a symbol"),
        ("{act() {}}", "the result.act is a function"),
        ("() => 1", "the result is a function"),
        ("/x/", "the result is a RegExp"),
        ("{error: new RangeError('no')}", "the result.error is a RangeError"),
        ("{late: Promise.resolve(1)}", "the result.late is a Promise"),
        ("{bytes: new Uint8Array(2)}", "the result.bytes is a Uint8Array"),
        ("{response: new Response('x')}", "the result.response is a Response"),
        ("new Headers({a: 'b'})", "the result is a Headers"),
        ("new (class Box { #inside = 1; })()", "the result is a Box"),
        ("{at: new Date(NaN)}", "the result.at is an invalid date"),
        ("(function* () { yield 1; })()", "which JSON cannot hold"),
        ("Response.error()", "StatusCode must be an integer from 200 to 599, not 0"),
        ("{Body: 'x', Headers: {a: 'b'}}", "not Headers; to send an object"),
        ("{Body: 'x', Header: {a: null}}", "the header a must be a text"),
        ("{Body: 'x', Header: {a: {b: 1}}}", "the header a must be a text, not a Object"),
        ("{Body: 'x', Header: 'a: b'}", "Header must be an object"),
        ("{Body: 'x', Header: new Set(['a'])}", "a list of pairs of name and text"),
        ("require('node:stream').Readable.from([{a: 1}])", "not one with a Object"),
        (
            "(async () => { const r = new Response('x'); await r.text(); return r; })()",
            "has been read already",
        ),
    ],
)
def test_what_javascript_cannot_send_is_refused_by_name(
    ground: Ground, returned: str, message: str
) -> None:
    task = ground.server.run(javascript(f"exports.handle = () => ({returned});"))

    assert task.status == 500
    assert message in task.json()["error"]["message"]


def test_what_was_fetched_is_sent_as_it_was_decoded(ground: Ground) -> None:
    """Node.js decodes a body, and leaves the header that says how it was encoded."""
    code = javascript(
        "const http = require('node:http'), zlib = require('node:zlib');\n"
        "exports.handle = async () => {\n"
        "  const server = http.createServer((_, response) => {\n"
        "    response.setHeader('content-encoding', 'gzip');\n"
        "    response.end(zlib.gzipSync('plain'));\n"
        "  });\n"
        "  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));\n"
        "  return fetch(`http://127.0.0.1:${server.address().port}/`);\n"
        "};\n"
    )

    task = ground.server.run(code)

    assert (task.status, task.body) == (200, b"plain")
    assert "content-encoding" not in task.headers


def test_an_encoding_that_callers_are_not_told_of_is_refused(ground: Ground) -> None:
    code = python(
        "import gzip\ndef handle(request):\n"
        "    return {'Header': {'Content-Encoding': 'gzip'}, 'Body': gzip.compress(b'x')}\n"
    )

    error = ground.server.run(code).json()["error"]

    assert error["type"] == "BadResponse"
    assert "in the encoding 'gzip'; return it plain" in error["message"]


def test_a_stream_without_end_is_refused_before_it_fills_the_memory(ground: Ground) -> None:
    code = javascript(
        "exports.handle = () => (async function* () { for (;;) yield Buffer.alloc(65536); })();"
    )

    task = ground.server.run(code)

    assert task.json()["error"] == {
        "type": "ResultTooLarge",
        "message": "the result is larger than 4194304 bytes",
    }
    ground.assert_well()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("{'Body': 'x', 'Headers': {}}", "not Headers; to send an object"),
        ("{'Body': 'x', 'Header': {'a': None}}", "the header a must be a text, not NoneType"),
        ("{'Body': 'x', 'Header': {'a': b'b'}}", "the header a must be a text, not bytes"),
        ("{'Body': 'x', 'Header': {'a': {'b': 1}}}", "the header a must be a text, not dict"),
        ("{'Body': 'x', 'Header': 1}", "not iterable"),
        ("{'items': {1}}", "set is not JSON serializable"),
        ("(number for number in (1, 2))", "generator is not JSON serializable"),
    ],
)
def test_what_python_cannot_send_is_refused_by_name(
    ground: Ground, returned: str, message: str
) -> None:
    task = ground.server.run(python(f"def handle(request):\n    return {returned}\n"))

    assert task.status == 500
    assert message in task.json()["error"]["message"]


def test_headers_may_be_a_list_of_pairs(ground: Ground) -> None:
    code = python(
        "def handle(request):\n    return {'Header': [('X-A', 1), ('X-B', ['2', 3.5])]}\n"
    )

    assert ground.server.run(code).headers == {"x-a": "1", "x-b": "3.5"}


@pytest.mark.parametrize(
    ("thrown", "kind", "message"),
    [
        ("Symbol('odd')", "symbol", "Symbol(odd)"),
        ("{message: 'plain'}", "Object", "plain"),
        ("{code: 5}", "Object", "{ code: 5 }"),
        ("null", "object", "null"),
        ("undefined", "undefined", "undefined"),
        ("'text'", "string", "text"),
        (
            "Object.defineProperty(new Error(), 'message', {get() { throw new Error('inner'); }})",
            "Error",
            "(the error's text cannot be shown)",
        ),
        (
            "Object.defineProperty(new Error(), 'stack', {get() { throw new Error('inner'); }})",
            "Error",
            "",
        ),
        ("new Proxy({}, {get() { throw 1; }})", "Error", "(the error's text cannot be shown)"),
    ],
)
def test_whatever_is_thrown_is_told(ground: Ground, thrown: str, kind: str, message: str) -> None:
    task = ground.server.run(javascript(f"exports.handle = () => {{ throw {thrown}; }};"))

    assert task.json()["error"] == {"type": kind, "message": message}
    ground.assert_well()
