"""Spans as bytes of OTLP, as the library would encode them, at a fifth of its cost.

The library makes a message object of each span and of each attribute, 30 us a span, and while it
does the event loop has to share the interpreter with it. Ours are plain: texts and numbers, no
events, one resource. `use` puts this encoder in its place, where the library is as this module
knows it; anywhere else the library encodes. `test_encoding.py` compares both.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext

_HAS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x300
"""Flags of OTLP: it is known whether the parent is in another process; it is."""
_ENCODER: Final = "encode_spans"
_SMALL: Final = [bytes([number]) for number in range(128)]
_int64_mask: Final = (1 << 64) - 1
_double: Final = struct.Struct("<d").pack
_times: Final = struct.Struct("<cQcQ").pack
_flags: Final = struct.Struct("<I").pack


class EncodedSpans:
    """A request to a collector, with the methods of the library's that its exporter calls."""

    def __init__(self, spans: Sequence[ReadableSpan]) -> None:
        self._body = encoded(spans)

    def SerializePartialToString(self) -> bytes:  # noqa: N802  a method of protobuf
        """Return its bytes."""
        return self._body

    SerializeToString = SerializePartialToString


def use() -> bool:
    """Make the library's exporter encode in this way; return whether it does."""
    names: dict[str, Any] = vars(trace_exporter)
    if names.get(_ENCODER) is encode_spans:
        names[_ENCODER] = EncodedSpans
    return names.get(_ENCODER) is EncodedSpans


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """Return the request that has these spans, all of one resource and scope."""
    if not spans:
        return b""
    # What all of them share is the library's affair.
    of_first = encode_spans(spans[:1]).resource_spans[0]
    of_scope = of_first.scope_spans[0]
    body = b"".join(
        [
            _field(b"\x0a", of_scope.scope.SerializeToString()),
            *[_field(b"\x12", _span(span)) for span in spans],
            _field(b"\x1a", of_scope.schema_url.encode()),
        ]
    )
    resource = _field(b"\x0a", of_first.resource.SerializeToString())
    body = resource + _field(b"\x12", body) + _field(b"\x1a", of_first.schema_url.encode())
    return _field(b"\x0a", body)


def _span(span: ReadableSpan) -> bytes:
    context, parent, status = span.context, span.parent, span.status
    assert context is not None, "each of ours has one"
    parts = [_ids(context)]
    if context.trace_state:
        parts.append(_text(b"\x1a", context.trace_state.to_header()))
    if parent is not None:
        parts.append(b"\x22\x08" + parent.span_id.to_bytes(8, "big"))
    parts.append(_text(b"\x2a", span.name))
    parts.append(b"\x30" + _SMALL[span.kind.value + 1])
    parts.append(_times(b"\x39", span.start_time or 0, b"\x41", span.end_time or 0))
    for name, value in (span.attributes or {}).items():
        parts.append(_field(b"\x4a", _key(name) + _field(b"\x12", _value(value))))
    parts += [_field(b"\x6a", _link(link)) for link in span.links]
    told = b"" if status.description is None else _text(b"\x12", status.description)
    if status.status_code.value:
        told += b"\x18" + _SMALL[status.status_code.value]
    parts.append(_field(b"\x7a", told))
    parts.append(b"\x85\x01" + _remote(parent))
    return b"".join(parts)


def _link(link: Link) -> bytes:
    return _ids(link.context) + b"\x35" + _remote(link.context)


def _ids(context: SpanContext) -> bytes:
    trace_id, span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    return b"\x0a\x10" + trace_id + b"\x12\x08" + span_id


def _remote(context: SpanContext | None) -> bytes:
    is_remote = context is not None and context.is_remote
    return _flags(_IS_REMOTE if is_remote else _HAS_REMOTE)


@lru_cache(maxsize=256)
def _key(name: str) -> bytes:
    return _text(b"\x0a", name)


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return _text(b"\x0a", value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & _int64_mask)
    return b"\x21" + _double(value)


def _text(tag: bytes, text: str) -> bytes:
    return _field(tag, text.encode("utf-8", "replace"))


def _field(tag: bytes, body: bytes) -> bytes:
    size = len(body)
    return tag + (_SMALL[size] if size < 128 else _varint(size)) + body


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)
