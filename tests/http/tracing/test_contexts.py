"""W3C's cases of `traceparent`, the sampler beside the SDK's, OpenTelemetry's variables."""

from collections.abc import Mapping
from random import Random

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from troth.core.grammar.traceparents import sampled_trace_id
from troth.core.model import Trace
from troth.http.tracing.contexts import Ids, Sampler, SpanContext, parse
from troth.http.tracing.environment import plan_of, sampler_of

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = SpanContext(int(TRACE_ID, 16), int(SPAN_ID, 16), 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"00-{TRACE_ID}-{SPAN_ID}-01", GOOD),
        (f" 00-{TRACE_ID}-{SPAN_ID}-01\t", GOOD),  # optional white space
        (f"00-{TRACE_ID}-{SPAN_ID}-00", replace(GOOD, flags=0)),
        (f"00-{TRACE_ID}-{SPAN_ID}-03", replace(GOOD, flags=3)),  # the flag of level 2
        (f"00-{TRACE_ID}-{SPAN_ID}-ff", replace(GOOD, flags=3)),  # others are not known
        (f"cc-{TRACE_ID}-{SPAN_ID}-01", GOOD),  # a later version
        (f"cc-{TRACE_ID}-{SPAN_ID}-01-what-comes-then", GOOD),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01.what-comes-then", None),
        (f"00-{TRACE_ID}-{SPAN_ID}-01-what-comes-then", None),
        (f"00-{TRACE_ID}-{SPAN_ID}-01-", None),
        (f"ff-{TRACE_ID}-{SPAN_ID}-01", None),
        (f"00-{'0' * 32}-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (f"00-{TRACE_ID.upper()}-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}-{SPAN_ID.upper()}-01", None),
        (f"00-{TRACE_ID[1:]}-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}0-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}-{SPAN_ID[1:]}-01", None),
        (f"00-{TRACE_ID}-{SPAN_ID}-1", None),
        (f"00-{TRACE_ID}-{SPAN_ID}-0x", None),
        (f"0-{TRACE_ID}-{SPAN_ID}-01", None),
        (f"0x-{TRACE_ID}-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}-{SPAN_ID}", None),
        (f"00_{TRACE_ID}_{SPAN_ID}_01", None),
        (f"00-{'٣' * 32}-{SPAN_ID}-01", None),  # digits, but not those of ASCII
        (f"00-{TRACE_ID}-{SPAN_ID}-01\n", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_traceparent_table(given: str, expected: SpanContext | None) -> None:
    assert parse(given) == expected
    is_sampled = expected is not None and expected.is_sampled
    assert sampled_trace_id(given) == (TRACE_ID if is_sampled else None), "as metrics read it"


def test_a_context_is_stored_as_it_is_read() -> None:
    context = replace(GOOD, tracestate="congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")

    assert context.trace() == Trace(f"00-{TRACE_ID}-{SPAN_ID}-01", context.tracestate)
    assert parse(context.trace().traceparent, context.tracestate) == context


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.3, 0.5, 0.999, 1.0])
def test_sampling_ratio_agrees_across_servers(ratio: float) -> None:
    """Two servers and the SDK decide the same about each trace, and choose enough of them."""
    ids = Ids(Random(11).getrandbits)
    first, second, sdk = Sampler.of(ratio), Sampler.of(ratio), TraceIdRatioBased(ratio)
    chosen = 0
    for _ in range(4_000):
        trace_id = ids.trace_id()
        wants = first.wants_root(trace_id)
        assert second.wants_root(trace_id) == wants
        decision = sdk.should_sample(None, trace_id, "span").decision
        assert (decision is Decision.RECORD_AND_SAMPLE) == wants
        chosen += wants

    assert chosen == pytest.approx(4_000 * ratio, abs=150)


@pytest.mark.parametrize(
    ("environment", "follows", "wants_root"),
    [
        ({}, True, True),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, False, True),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, False, False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, True, False),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, False, False),
        ({"OTEL_TRACES_SAMPLER_ARG": "0"}, True, False),
        ({"OTEL_TRACES_SAMPLER_ARG": "many"}, True, True),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, True, True),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, True, True),
    ],
)
def test_samplers_are_those_of_the_standard_variables(
    environment: Mapping[str, str], follows: bool, wants_root: bool
) -> None:
    sampler = sampler_of(environment)

    assert sampler.follows_parent == follows
    assert sampler.wants_root(GOOD.trace_id) == wants_root
    assert sampler.wants(replace(GOOD, flags=0)) == (False if follows else wants_root)
    assert sampler.wants(GOOD) == (True if follows else wants_root)


@pytest.mark.parametrize(
    "more",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_there_are_no_traces_unless_they_are_wanted(more: Mapping[str, str]) -> None:
    wanted = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}

    assert plan_of(wanted) is not None
    assert plan_of({**wanted, **more}) is None
