"""What hostile clients send: bodies, ids, methods and bytes that are no HTTP at all."""

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

DEEP: Final = 100_000

BODIES: Final[dict[str, bytes]] = {
    "empty": b"",
    "space": b" \r\n ",
    "null": b"null",
    "object": b"{}",
    "array": b"[]",
    "number": b"7",
    "string": b'"x"',
    "true": b"true",
    "truncated object": b'{"id": "x", ',
    "truncated string": b'{"id": "x',
    "truncated escape": b'{"id": "x\\u12',
    "two values": b"{}{}",
    "single quotes": b"{'id': 'x'}",
    "trailing comma": b'{"id": "x",}',
    "comment": b'/* x */ {"id": "x"}',
    "two byte order marks": b'\xef\xbb\xbf\xef\xbb\xbf{"id": "x"}',
    "NUL byte": b'{"id": "\x00"}',
    "UTF-16": '{"id": "x"}'.encode("utf-16"),
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "overlong UTF-8": b'{"id": "\xc0\xaf"}',
    "surrogate in UTF-8": b'{"id": "\xed\xa0\x80"}',
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep unknown field": b'{"unknown":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "not a number": b'{"timeout": NaN}',
    "infinity": b'{"timeout": Infinity}',
    "many digits": b'{"timeout": ' + b"9" * 100_000 + b"}",
    "many keys": json.dumps({f"key{number}": number for number in range(20_000)}).encode(),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "form": b"id=x&timeout=5",
}

WRONG_VALUES: Final[dict[str, str]] = {
    "null": "null",
    "true": "true",
    "zero": "0",
    "negative": "-1",
    "fraction": "1.5",
    "exponent": "1e3",
    "beyond 64 bits": "9223372036854775808",
    "huge exponent": "1e999999",
    "empty string": '""',
    "string": '"x"',
    "NUL": '"a\\u0000b"',
    "lone surrogate": '"\\ud800"',
    "reversed surrogates": '"\\udc00\\ud800"',
    "long string": '"' + "x" * 100_000 + '"',
    "template": '"{{.id}}{{"',
    "cron": '"TZ=UTC"',
    "array": '["x"]',
    "object": '{"x": 1}',
    "surrogate key": '{"\\ud800": "x"}',
    "deep": "[" * DEEP + "]" * DEEP,
}

METHODS: Final = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"),
    *("get", "PROPFIND", "M-SEARCH", "X", "!#$%&'*+-.^_`|~", "A" * 1000),
)

NO_METHODS: Final = ("G@T", "GE(T", '"GET"', "G\x00T", "G\xc3\x89T", "GET\t", "")


def wrong_fields(example: Any) -> Iterator[tuple[str, bytes]]:
    """A good body, with one field at a time (also inside inner objects) wrong, missing or twice."""
    for path in _paths(example):
        name = ".".join(path)
        without = copy.deepcopy(example)
        del _inner(without, path[:-1])[path[-1]]
        yield f"{name} missing", json.dumps(without).encode()
        for kind, text in WRONG_VALUES.items():
            marked = copy.deepcopy(example)
            _inner(marked, path[:-1])[path[-1]] = "@@"
            yield f"{name} {kind}", json.dumps(marked).replace('"@@"', text).encode()
        twice = copy.deepcopy(example)
        inner = _inner(twice, path[:-1])
        inner["@@"] = 7
        inner[path[-1]] = inner.pop(path[-1])
        yield f"{name} twice", json.dumps(twice).replace('"@@"', json.dumps(path[-1])).encode()


def _paths(example: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in example.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _paths(value, (*above, name))


def _inner(example: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        example = example[name]
    return example


SMUGGLED: Final = b"POST /promises HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n" + (
    b'{"id":"smuggled"}'
)
_POST: Final = b"POST /promises HTTP/1.1\r\nHost: x\r\n"
_GET: Final = b"GET /promises/x HTTP/1.1\r\n"

BROKEN_HTTP: Final[dict[str, bytes]] = {
    "no number as length": _POST + b"Content-Length: x\r\n\r\n{}",
    "negative length": _POST + b"Content-Length: -1\r\n\r\n{}",
    "signed length": _POST + b"Content-Length: +2\r\n\r\n{}",
    "hexadecimal length": _POST + b"Content-Length: 0x2\r\n\r\n{}",
    "endless length": _POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n{}",
    "two lengths": _POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "list of lengths": _POST + b"Content-Length: 2, 40\r\n\r\n{}",
    "unknown coding": _POST + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "chunked not last": _POST + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two codings": _POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "length and chunked": _POST
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "chunked in disguise": _POST
    + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunk size no number": _POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "chunk size negative": _POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "chunk size endless": _POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 64 + b"\r\n{}",
    "chunk longer than said": _POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}{}{}\r\n0\r\n\r\n",
    "no host": _GET + b"\r\n",
    "two hosts": _GET + b"Host: x\r\nHost: y\r\n\r\n",
    "header without colon": _GET + b"Host: x\r\nnonsense\r\n\r\n",
    "header without name": _GET + b"Host: x\r\n: value\r\n\r\n",
    "space in header name": _GET + b"Host: x\r\nX Y: z\r\n\r\n",
    "NUL in header": _GET + b"Host: x\r\nX: a\x00b\r\n\r\n",
    "lone CR in header": _GET + b"Host: x\r\nX: a\rb\r\n\r\n",
    "no version": b"GET /promises/x\r\n\r\n",
    "version 0.9": b"GET /promises/x HTTP/0.9\r\n\r\n",
    "version 2": b"GET /promises/x HTTP/2.0\r\nHost: x\r\n\r\n",
    "version 9": b"GET /promises/x HTTP/9.9\r\nHost: x\r\n\r\n",
    "no HTTP": b"GET /promises/x FTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  /promises/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "space in path": b"GET /promises/x y HTTP/1.1\r\nHost: x\r\n\r\n",
    "long line": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "long header": _GET + b"Host: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": _GET + b"Host: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    "endless line": b"x" * 200_000,
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00" + b"\x00" * 4,
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + b"\x5a" * 189,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMTP": b"EHLO example.org\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "zeros": b"\x00" * 1000,
    "all bytes": bytes(range(256)) * 4,
    "line ends": b"\r\n" * 50_000,
}
"""Each is refused with a 4xx, 501 or 505, or answered by closing the connection."""
