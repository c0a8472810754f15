"""What the proof with partitions stands on: cuts that work one way, and a clock that is wrong.

The proof itself is a command, since it needs root and some minutes.
"""

import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from .namespaces import NotPossible, machines
from .wrong_clock import WrongClock, build

PORT = 9000
ANSWER_LIMIT_S = 0.3


def test_a_cut_loses_what_is_sent_one_way_and_heals() -> None:
    """Where namespaces cannot be made, that is said in one line."""
    said = "it works"
    try:
        with machines("a", "b") as network:
            sockets = {name: network.within(name, _bound) for name in ("a", "b")}
            with closing(sockets["a"]), closing(sockets["b"]):
                places = {name: (network.address(name), PORT) for name in ("a", "b")}
                assert _arrives(sockets["a"], sockets["b"], places["b"])

                network.cut("a", "b")
                assert not _arrives(sockets["a"], sockets["b"], places["b"])
                assert _arrives(sockets["b"], sockets["a"], places["a"])

                network.heal("a", "b")
                assert _arrives(sockets["a"], sockets["b"], places["b"])
    except NotPossible as error:
        said = str(error)
    assert len(said.splitlines()) == 1, said


def _bound() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("0.0.0.0", PORT))
    made.settimeout(ANSWER_LIMIT_S)
    return made


def _arrives(source: socket.socket, target: socket.socket, place: tuple[str, int]) -> bool:
    """Whether something that is sent is received; on a busy machine it is tried again."""
    for _ in range(5):
        source.sendto(b"!", place)
        try:
            target.recv(10)
        except TimeoutError:
            continue
        return True
    return False


def test_a_clock_is_set_while_a_process_runs(tmp_path: Path) -> None:
    library = build(tmp_path)
    if library is None:
        return  # the proof says so, and goes without
    clock = WrongClock(tmp_path, library)
    program = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=1)"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | clock.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for ahead_s in (0, 61, -61):
            clock.set(ahead_s)
            process.stdin.write("?\n")
            process.stdin.flush()
            wall_s, monotonic_s = map(float, process.stdout.readline().split())
            assert abs(wall_s - time.time() - ahead_s) < 20
            assert abs(monotonic_s - time.monotonic()) < 20
