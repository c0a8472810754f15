"""The trace of a schedule's run. Its ids come from the run, so it has the same if made twice."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from .model import Trace

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8


def ids_of_run(schedule_id: str, run_time: int) -> tuple[int, int]:
    """Return the ids of the trace and of the span with which a run at a time, in ms, begins."""
    made = blake2b(
        f"{run_time} {schedule_id}".encode("utf-8", "surrogatepass"),
        digest_size=_TRACE_ID_BYTES + _SPAN_ID_BYTES,
        person=b"troth run",
    ).digest()
    return int.from_bytes(made[:_TRACE_ID_BYTES]) or 1, int.from_bytes(made[_TRACE_ID_BYTES:]) or 1


def trace_of_run(
    schedule_id: str, run_time: int, samples: Callable[[int], bool] | None
) -> Trace | None:
    """Return the trace of a run, if `samples` says so of its id."""
    if samples is None:
        return None
    trace_id, span_id = ids_of_run(schedule_id, run_time)
    return Trace(f"00-{trace_id:032x}-{span_id:016x}-01") if samples(trace_id) else None
