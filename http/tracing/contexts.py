"""Trace contexts: ids of traces and spans, and which traces are sampled.

`traceparents.py` says what a `traceparent` is. `tracestate` is never looked into. What this server
decides about a trace without a flag depends on the trace's id alone, as in every OpenTelemetry SDK,
so servers with the same ratio agree.
"""

from collections.abc import Callable
from random import Random, SystemRandom
from typing import Final, NamedTuple

from msgspec import Struct

from troth.core.grammar import traceparents
from troth.core.grammar.traceparents import SAMPLED
from troth.core.model import Trace

TRACE_ID_BITS: Final = 128
SPAN_ID_BITS: Final = 64
RATIO_MASK: Final = (1 << 64) - 1
"""A ratio compares the last 64 bits of a trace's id, as `TraceIdRatioBased` of the SDKs does."""


class SpanContext(Struct, frozen=True, gc=False):
    """One span of a trace, as another one hangs below it. `flags` are those of its trace."""

    trace_id: int
    span_id: int
    flags: int = SAMPLED
    tracestate: str = ""

    @property
    def is_sampled(self) -> bool:
        """Return whether the spans of its trace are wanted."""
        return bool(self.flags & SAMPLED)

    def with_span(self, span_id: int) -> "SpanContext":
        """Return another span of the same trace."""
        return SpanContext(self.trace_id, span_id, self.flags, self.tracestate)

    def trace(self) -> Trace:
        """Return it as it is stored and handed on."""
        parent = f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"
        return Trace(parent, self.tracestate)


def context_of(trace: Trace | None) -> SpanContext | None:
    """Return the context that was given or stored; None if there is none, or none that counts."""
    return None if trace is None else parse(trace.traceparent, trace.tracestate)


def sampled_context(trace: Trace | None) -> SpanContext | None:
    """Do as `context_of`, but only for a trace whose spans are wanted."""
    context = context_of(trace)
    return context if context is not None and context.is_sampled else None


def parse(parent: str, tracestate: str = "") -> SpanContext | None:
    """Return what a `traceparent` says; None if it is not as W3C wants it."""
    found = traceparents.read(parent)
    if found is None:
        return None
    trace_id, span_id, flags = found
    return SpanContext(int(trace_id, 16), int(span_id, 16), flags, tracestate)


class Ids:
    """New ids, never 0. Given another source of random bits, they are those it gives.

    They are no secrets: as in the SDKs, a fast generator makes them, with a seed of its own.
    """

    def __init__(self, bits: Callable[[int], int] | None = None) -> None:
        seed = SystemRandom().getrandbits(TRACE_ID_BITS)
        self.bits: Final = Random(seed).getrandbits if bits is None else bits  # noqa: S311
        """Return a number of that many random bits."""

    def trace_id(self) -> int:
        """Return the id of a new trace."""
        return self.bits(TRACE_ID_BITS) or 1

    def span_id(self) -> int:
        """Return the id of a new span."""
        return self.bits(SPAN_ID_BITS) or 1


class Sampler(NamedTuple):
    """The choice of traces. With `follows_parent` the caller's flag counts, if there is one.

    `bound` is 2^64 times the ratio of the others that are chosen.
    """

    bound: int
    follows_parent: bool = True

    @classmethod
    def of(cls, ratio: float, *, follows_parent: bool = True) -> "Sampler":
        """Return the sampler that chooses so many of all traces, from 0 to 1."""
        return cls(round(ratio * (RATIO_MASK + 1)), follows_parent)

    def wants_root(self, trace_id: int) -> bool:
        """Return whether a trace that begins here is chosen."""
        return trace_id & RATIO_MASK < self.bound

    def wants(self, parent: SpanContext) -> bool:
        """Return whether a trace that began elsewhere is chosen."""
        if self.follows_parent:
            return parent.is_sampled
        return self.wants_root(parent.trace_id)
