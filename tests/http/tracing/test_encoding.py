"""Spans as bytes, beside the library's own encoder."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from troth.http.tracing import encoding
from troth.http.tracing.contexts import SpanContext
from troth.http.tracing.exporter import Exporter
from troth.http.tracing.spans import FinishedSpan, SpanKind, SpanQueue

TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
VALUES = st.one_of(
    TEXTS, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
)
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 3),
    st.sampled_from(["", "a=1", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"]),
)
TIMES = st.integers(0, 2**63 - 1)


def describe(name: str, attributes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return name, attributes


SPANS = st.builds(
    FinishedSpan,
    CONTEXTS,
    st.none() | st.integers(1, 2**64 - 1),
    st.sampled_from(SpanKind),
    TIMES,
    TIMES,
    st.just(describe),
    st.tuples(TEXTS, st.dictionaries(TEXTS.filter(bool), VALUES, max_size=5)),
    st.none() | TEXTS,
    st.none() | CONTEXTS,
)
EXPORTER = Exporter(SpanQueue(), "troth", OTLPSpanExporter("http://localhost:1"))


@given(st.lists(SPANS, min_size=1, max_size=4))
def test_spans_are_encoded_as_by_the_library(spans: list[FinishedSpan]) -> None:
    made = [EXPORTER._made(span) for span in spans]
    theirs = encode_spans(made)
    assert ExportTraceServiceRequest.FromString(encoding.encoded(made)) == theirs


def test_the_library_takes_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a new version of it has another form: it would encode by itself again."""
    monkeypatch.setattr(trace_exporter, "encode_spans", encode_spans)
    sent: list[bytes] = []

    class Client:
        def export(self, body: bytes) -> Any:
            sent.append(body)
            raise ConnectionError

    assert encoding.use()
    exporter = OTLPSpanExporter("http://localhost:1")
    exporter._client = Client()  # type: ignore[assignment]
    context = SpanContext(1, 2)
    span = FinishedSpan(context, None, SpanKind.SERVER, 1, 2, lambda: ("a", {"b": 1}))
    with pytest.raises(ConnectionError):
        exporter.export([EXPORTER._made(span)])
    assert sent == [encoding.encoded([EXPORTER._made(span)])]


def test_another_library_encodes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_exporter, "encode_spans", print)
    assert not encoding.use()
    monkeypatch.delattr(trace_exporter, "encode_spans")
    assert not encoding.use()
