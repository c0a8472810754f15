"""Measurements that are not about throughput: timers, recovery, memory.

Each returns rows: a mapping from column to number, the first column being what was varied.
"""

import json
import math
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .client import BenchError, BenchTarget
from .histogram import Histogram
from .load import run, workload_for
from .machine import usage
from .results import milliseconds
from .session import BenchSession, ramp
from .wire import Events, Requests

Row = dict[str, Any]

CONFIRM_WAIT_S: Final = 30.0

LOAD_AHEAD_S: Final = 3.0
"""How long before the first timer is due the load begins."""

_STAMP: Final = struct.Struct("qq")
_SO_TIMESTAMPNS: Final = 35
"""Asks Linux to say when what is read has arrived: seconds and nanoseconds since 1970."""
_LATENESS: Final = re.compile(r'timer_lateness_seconds_bucket\{le="([^"]+)"\} (\S+)')


def study_memory(session: BenchSession, counts: Sequence[int]) -> list[Row]:
    """Measure the server's resident memory by pending promise, beyond that of an empty one."""
    rows: list[Row] = []
    with session.own_server() as server:
        target = server.target
        assert target.process_id is not None
        # What the first requests load (code, buffers) is not memory of promises.
        list(ramp(session, target, [500], "memory, warming up"))
        before = usage(target.process_id)
        for count in ramp(session, target, counts, "memory"):
            now = usage(target.process_id)
            if before is None or now is None:
                raise BenchError("this system does not report how much memory a process uses")
            grown = now.memory_bytes - before.memory_bytes
            rows.append(
                {
                    "pending promises": count,
                    "resident MB": round(now.memory_bytes / 1e6, 1),
                    "bytes a promise": round(grown / count),
                }
            )
    return rows


def study_recovery(session: BenchSession, counts: Sequence[int]) -> list[Row]:
    """Return how long a server takes to be ready, by stored promises, killed and stopped."""
    rows: list[Row] = []
    with session.own_server() as server:
        for count in ramp(session, server.target, counts, "recovery"):
            server.kill()
            session.begin(f"recovery: {count:,} promises, after a kill")
            after_kill_s = server.start()
            server.stop()
            after_stop_s = server.start()
            size = sum(file.stat().st_size for file in server.data.rglob("*") if file.is_file())
            rows.append(
                {
                    "promises stored": count,
                    "after kill -9, s": round(after_kill_s, 3),
                    "after a stop, s": round(after_stop_s, 3),
                    "data MB": round(size / 1e6, 1),
                }
            )
    return rows


def study_timers(
    session: BenchSession,
    target: BenchTarget | None,
    *,
    timers: int,
    window_s: float,
    load_rate: float,
    sampled: int,
) -> list[Row]:
    """Measure how late `timers` promises time out within `window_s`, while others are created.

    `sampled` of them are subscribed to: what counts is when the message is here. That includes the
    way to the worker, but not how much later a busy machine lets the worker read it: that is shown
    apart. Where the server reports its own lateness (ours does, in /metrics), it is shown too.
    Raises BenchError.
    """
    if target is not None:
        return [_timers(session, target, timers, window_s, load_rate, sampled)]
    with session.own_server() as server:
        return [_timers(session, server.target, timers, window_s, load_rate, sampled)]


def _timers(
    session: BenchSession,
    target: BenchTarget,
    timers: int,
    window_s: float,
    load_rate: float,
    sampled: int,
) -> Row:
    group = session.new_run()
    # They must all exist before the first is due: how fast promises can be made is tried first.
    trial = time.perf_counter()
    trial_count = min(timers, 1000)
    list(ramp(session, target, [trial_count], "timers, trying the speed"))
    each_s = (time.perf_counter() - trial) / trial_count
    first_ms = time.time_ns() // 10**6 + int((timers + 4 * sampled) * each_s * 1500) + 3000
    listener = _Listener(target, group)
    try:
        session.begin(f"timers: {timers:,} promises")
        deadlines = _sampled_promises(target, group, sampled, first_ms, window_s)
        spread = {"timeout_ms": first_ms, "spread_ms": int(window_s * 1000)}
        list(ramp(session, target, [timers], "timers", **spread))
        spare_s = first_ms / 1000 - time.time()
        if spare_s < 0:
            raise BenchError("the timers could not all be created in time; ask for fewer")
        lateness_before = _server_lateness(target)
        session.begin(f"timers: {timers:,} due within {window_s:g} s, {load_rate:g} creates/s")
        time.sleep(max(0.0, spare_s - LOAD_AHEAD_S))
        spare_s = first_ms / 1000 - time.time()
        load = workload_for(
            target,
            scenario="create",
            run=session.new_run(),
            rate=load_rate,
            connections=64,
            warm_up_s=max(0.0, spare_s - 0.5),
            duration_s=window_s + 1.0,
            cpu=session.cores.load_core(0),
        )
        loaded = run([load], target.process_id, None, session.note)
        listener.wait(sampled)
    finally:
        listener.close()
    late, read_late = Histogram(), Histogram()
    for identifier, (came_ms, read_ms) in list(listener.came_ms.items()):
        late.record(int((came_ms - deadlines[identifier]) * 1e6))
        read_late.record(int((read_ms - came_ms) * 1e6))
    row: Row = {
        "timers": timers,
        "window, seconds": window_s,
        "creates/s meantime": round(loaded.throughput),
        "samples": late.count,
        "lost": sampled - late.count,
        "message late p50 ms": milliseconds(late.percentile(50)),
        "message late p99 ms": milliseconds(late.percentile(99)),
        "message late max ms": milliseconds(late.maximum),
        "read later p99 ms": milliseconds(read_late.percentile(99)),
    }
    after = _server_lateness(target)
    if after:
        fired = {bound: count - lateness_before.get(bound, 0.0) for bound, count in after.items()}
        row["server: timer p99 at most, ms"] = _bound_ms(fired, 0.99)
    return row


def _sampled_promises(
    target: BenchTarget, group: str, count: int, first_ms: int, window_s: float
) -> Mapping[str, int]:
    """Create promises and subscribe to them; return when each is due."""
    deadlines = {}
    for number in range(count):
        identifier = f"{group}-s{number}"
        deadline_ms = first_ms + int(window_s * 1000 * number / count)
        made, answer = target.ask("POST", "/promises", {"id": identifier, "timeout": deadline_ms})
        subscription = {
            "id": "s",
            "promiseId": identifier,
            "timeout": deadline_ms + 60_000,
            "recv": f"poll://{group}/w",
        }
        if made == 201:
            made, answer = target.ask("POST", "/subscriptions", subscription)
        if made != 201:
            raise BenchError(f"a sampled timer could not be created: {made} {answer}")
        deadlines[identifier] = deadline_ms
    return deadlines


class _Listener:
    """A worker's stream, read in a thread: when each message came and was read, by promise."""

    def __init__(self, target: BenchTarget, group: str) -> None:
        self.came_ms: dict[str, tuple[float, float]] = {}
        address = (target.poll_host, target.poll_port)
        self._socket = socket.create_connection(address, CONFIRM_WAIT_S)
        self._socket.settimeout(None)
        if sys.platform == "linux":
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        requests = Requests(f"{address[0]}:{address[1]}", target.authorization)
        self._socket.sendall(requests.make("GET", f"{target.poll_prefix}/{group}/w"))
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        events = Events()
        while True:
            data, notes, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(_STAMP.size))
            if not data:
                return
            read_ms = time.time_ns() / 1e6
            came_ms = _came_ms(notes, read_ms)
            for event in events.feed(data):
                promise = json.loads(event).get("promise", {})
                with self._changed:
                    self.came_ms.setdefault(promise.get("id", ""), (came_ms, read_ms))
                    self._changed.notify_all()

    def wait(self, count: int) -> None:
        """Return when this many have come, or no more are expected."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.came_ms) >= count, CONFIRM_WAIT_S)

    def close(self) -> None:
        """End the stream and the thread."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def _came_ms(notes: list[tuple[int, int, bytes]], read_ms: float) -> float:
    """Return when the last of what was read had arrived, or when it was read if that is unknown."""
    for level, kind, stamp in notes:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _STAMP.unpack(stamp)
            came_ms: float = seconds * 1e3 + nanoseconds / 1e6
            return min(came_ms, read_ms)
    return read_ms


def _server_lateness(target: BenchTarget) -> dict[float, float]:
    """Return how many timers were at most so many seconds late, as the server counts them.

    Empty if it does not say.
    """
    status, text = target.ask("GET", "/metrics")
    if status != 200 or not isinstance(text, str):
        return {}
    return {float(bound): float(count) for bound, count in _LATENESS.findall(text)}


def _bound_ms(counts: Mapping[float, float], share: float) -> float | None:
    """Return the smallest bound that this share of all timers did not exceed."""
    wanted = counts.get(math.inf, 0.0) * share
    return next((1000 * one for one in sorted(counts) if counts[one] >= wanted > 0), None)
