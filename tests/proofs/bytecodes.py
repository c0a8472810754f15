"""Count the bytecodes that a server executes for one operation: firm where times are not.

    python -m tests.proofs.bytecodes rpc --top 40
    python -m tests.proofs.bytecodes create --tree ../older     # another version
    python -m tests.proofs.bytecodes create --server-processes 2 --connections 128

A count is the same however busy the machine is. The server runs under `sys.settrace`, which counts
in the event loop's thread only. All connections ask at once and wait for all answers; the server is
stopped while the requests are written, so that a pass has all of them. What a clock causes is left
out: trio itself, and what happens each second. C code is not counted, nor system calls: compare
`troth bench` for those.
"""

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

CAUSED_BY_CLOCKS: Final = re.compile(
    r"trio/|contextlib|<attrs|<frozen abc|collections/__init__|outcome|sortedcontainers|/upkeep/"
    r"|surveys/series|state/activity|overview/counting|loop_lag|shards/(clock|passes|together)"
    r"|Counts\.add$|Shards\.counts$|Lane\._check$|LaneConnection\.check$|EnumType\.__iter__"
)
PROCESSES: Final = "--processes"
SEAT: Final = "TROTH_SEAT"
"""What a process finds in its environment when a supervisor has started it."""
READY_TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 0.05
PAYLOAD_BYTES: Final = 200


# In the server


def count_in_server(path: Path, arguments: list[str]) -> None:
    """Run a server, and count from SIGUSR1 to SIGUSR2, which writes the counts to `path`."""
    import runpy

    executed: Counter[CodeType] = Counter()
    calls: Counter[CodeType] = Counter()

    def count(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            executed[frame.f_code] += 1
        return count

    def enter(frame: FrameType, event: str, _argument: Any) -> Any:
        if event != "call":
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        calls[frame.f_code] += 1
        return count

    def begin(*_: object) -> None:
        executed.clear()
        calls.clear()
        sys.settrace(enter)

    def end(*_: object) -> None:
        sys.settrace(None)
        rows = [
            (f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}", number, calls[code])
            for code, number in executed.items()
            if code is not end.__code__
        ]
        path.with_suffix(".part").write_text(json.dumps(rows))
        path.with_suffix(".part").rename(path)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    _give_passes_time()
    sys.argv = ["troth", "serve", *arguments]
    if PROCESSES in arguments and SEAT not in os.environ:
        # The supervisor counts nothing, and starts processes that do.
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        program = path.with_name("program")
        counting = shlex.join([sys.executable, __file__, "--count", str(path), "any"])
        program.write_text(f'#!/bin/sh\nshift 3\nexec {counting} "$@"\n')
        program.chmod(0o700)
        sys.executable = str(program)
    elif SEAT in os.environ:
        path = path.with_name(f"{os.getpid()}-{path.name}")
    runpy.run_module("troth", run_name="__main__")


def _give_passes_time() -> None:
    """Make no pass end early, and no pause an absence or a silence, because counting is slow."""
    import importlib

    for module, names in (
        ("troth.shards.passes", ("PASS_LIMIT_S", "CLIENTS_LIMIT_S", "OWN_LIMIT_S")),
        ("troth.shards.clock", ("ABSENCE_LIMIT_MS", "TICK_MS")),
        ("troth.shards.mesh.link", ("LINK_SILENCE_MS",)),
        ("troth.shards.mesh.answering", ("LINK_SILENCE_MS",)),
        ("troth.http.identity.copied", ("COPY_LEASE_MS",)),
    ):
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue  # an older version has no such module
        for name in names:
            setattr(found, name, 1_000_000)


# Outside


class Line:
    """One connection, and the stream of its worker if the scenario has one."""

    def __init__(self, number: int, port: int) -> None:
        """Connect."""
        from troth.bench.wire import Events

        self.number = number
        self.started_ns = self.sent_ns = self.message_ns = 0
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.stream: socket.socket | None = None
        self.events = Events()
        self.messages: list[bytes] = []

    def measure(self, name: str, duration_ns: int) -> None:
        """Do nothing: no time is measured."""

    def listen(self, port: int, request: bytes) -> None:
        """Open the stream."""
        self.stream = socket.create_connection(("127.0.0.1", port))
        self.stream.sendall(request)
        while not self.events.is_open:
            self.messages += self.events.feed(self.stream.recv(65_536))

    def message(self) -> bytes:
        """Return the next message of the stream."""
        assert self.stream is not None
        while not self.messages:
            self.messages += self.events.feed(self.stream.recv(65_536))
        return self.messages.pop(0)

    def answer(self, statuses: frozenset[int]) -> bytes:
        """Return the body of the answer, whose status is one of these."""
        from troth.bench.wire import parse_answer

        received = b""
        while (parsed := parse_answer(received)) is None:
            received += self.socket.recv(65_536)
        assert parsed[0] in statuses, parsed
        return parsed[1]


def count_operations(
    tree: Path, name: str, rounds_count: int, lines_count: int, processes_count: int
) -> list[Any]:
    """Return (place, bytecodes, calls) of each function, for all operations together."""
    from troth.bench.client import BenchTarget, free_ports
    from troth.bench.load import run, workload_for
    from troth.bench.machine import children_of
    from troth.bench.scenarios.table import SCENARIOS
    from troth.bench.wire import Requests

    api, poll = free_ports(2)
    target = BenchTarget("127.0.0.1", api, "127.0.0.1", poll)
    options = {"payload_bytes": PAYLOAD_BYTES, "keys": 1_000}
    workload = workload_for(
        target, scenario=name, run="r", keys_run="k", connections=lines_count, **options
    )
    with tempfile.TemporaryDirectory(prefix="troth-bytecodes-") as directory:
        path = Path(directory) / "counts.json"
        server = subprocess.Popen(
            [
                *(tree / ".venv/bin/python", __file__, "--count", path, name),
                *("--data", f"{directory}/data", "--listen", f"127.0.0.1:{api}"),
                *("--poll-listen", f"127.0.0.1:{poll}"),
                *((PROCESSES, str(processes_count)) if processes_count > 1 else ()),
            ],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(tree / "src")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_ready(target)
            for one in SCENARIOS[name].preparations(workload):
                made = {"operation_limit": one.operations_count, "tagged": one.tagged}
                run([workload_for(target, scenario=one.scenario, run="k", connections=16, **made)])
            scenario = SCENARIOS[name](workload, Requests(f"127.0.0.1:{api}"))
            lines = [Line(number, api) for number in range(lines_count)]
            for line in lines:
                if (stream := scenario.stream_path(line)) is not None:
                    prefix, port = ("/poll", api) if scenario.streams_at_api else ("", poll)
                    line.listen(port, scenario.requests.make("GET", prefix + stream))
            serving = [server.pid] if processes_count == 1 else children_of(server.pid)
            for _ in range(2):
                _ask_all(serving, scenario, lines)
            _send_all(serving, signal.SIGUSR1)
            time.sleep(SETTLE_S)
            for _ in range(rounds_count):
                _ask_all(serving, scenario, lines)
            time.sleep(SETTLE_S)
            _send_all(serving, signal.SIGUSR2)
            while len(found := list(path.parent.glob(f"*{path.name}"))) < len(serving):
                time.sleep(SETTLE_S)
            return [row for one in found for row in json.loads(one.read_text())]
        finally:
            serving = children_of(server.pid)
            server.kill()
            server.wait()
            _send_all(serving, signal.SIGKILL)


def _wait_ready(target: Any) -> None:
    from troth.bench.client import BenchError

    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if target.ask("GET", "/ready")[0] == 200:
                return
        except BenchError:
            pass  # it does not listen yet
        time.sleep(SETTLE_S)
    raise AssertionError("the server did not become ready")


def _send_all(process_ids: list[int], number: int) -> None:
    for process_id in process_ids:
        os.kill(process_id, number)


def _ask_all(process_ids: list[int], scenario: Any, lines: list[Line]) -> None:
    """Carry out one operation on each line, step by step, all at once."""
    from troth.bench.scenarios.base import MESSAGE

    operations = [scenario.operation(line) for line in lines]
    steps = {number: next(operation) for number, operation in enumerate(operations)}
    while steps:
        _send_all(process_ids, signal.SIGSTOP)
        asked = [number for number, (step, _) in steps.items() if step != MESSAGE]
        for number in asked:
            lines[number].socket.sendall(steps[number][1])
        _send_all(process_ids, signal.SIGCONT)
        for number in asked or list(steps):
            step = steps.pop(number)[0]
            line = lines[number]
            is_message = step == MESSAGE
            body = line.message() if is_message else line.answer(scenario.steps[step].statuses)
            try:
                steps[number] = operations[number].send(body)
            except StopIteration:
                continue  # the operation is done


def main() -> None:
    """Count from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenario", help="one of `troth bench --list`")
    parser.add_argument("--tree", type=Path, default=Path.cwd(), help="the version to look at")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--server-processes", type=int, default=1, help="processes of the server")
    parser.add_argument("--top", type=int, default=0, help="show so many functions")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    if arguments.count is not None:
        count_in_server(arguments.count, rest)
        return
    tree = arguments.tree.resolve()
    counts = count_operations(
        *(
            tree,
            arguments.scenario,
            arguments.rounds,
            arguments.connections,
            arguments.server_processes,
        )
    )
    operations_count = arguments.rounds * arguments.connections
    sums: dict[str, tuple[int, int]] = {}
    for place, number, calls in counts:
        if CAUSED_BY_CLOCKS.search(place) is None:
            before = sums.get(place, (0, 0))
            sums[place] = (before[0] + number, before[1] + calls)
    rows = [(place, *both) for place, both in sums.items()]
    for place, number, calls in sorted(rows, key=lambda row: -row[1])[: arguments.top]:
        shown = place.removeprefix(f"{tree}/src/troth/")
        print(f"{number / operations_count:9.1f} {calls / operations_count:8.2f}  {shown}")
    total = sum(row[1] for row in rows) / operations_count
    calls = sum(row[2] for row in rows) / operations_count
    print(f"{arguments.scenario}: {total:,.0f} bytecodes and {calls:,.0f} calls an operation")


if __name__ == "__main__":
    main()
