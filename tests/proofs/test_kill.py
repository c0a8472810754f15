"""The short version of the proof in `kill.py`, and a crash in the middle of reading a long log."""

import signal
from pathlib import Path

import pytest

from .kill import Proof, Victim
from .process_kill import ProcessProof
from .support import FAR_MS, Client, search_all

SEED = 7
ROUNDS_COUNT = 3


@pytest.mark.slow
def test_kill_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    print(f"seed {SEED}")

    report = Proof(tmp_path, SEED, print).run(ROUNDS_COUNT)

    assert report.rounds_count == ROUNDS_COUNT
    assert report.kills_count >= ROUNDS_COUNT - 1
    assert report.stops_count == 1
    assert report.acknowledged_count > 200, "there was hardly any load"
    assert report.leases_count > 0
    assert report.slots_count > 0


@pytest.mark.slow
def test_a_process_that_is_killed_under_load_takes_nothing_with_it(tmp_path: Path) -> None:
    print(f"seed {SEED}")

    proof = ProcessProof(tmp_path, SEED, print, 3)
    report = proof.run(1)

    print(proof.costs())
    assert report.rounds_count == report.kills_count == 1
    assert report.acknowledged_count > 50, "there was hardly any load"


@pytest.mark.slow
def test_a_server_that_never_gets_ready_harms_nothing(tmp_path: Path) -> None:
    """Killed at many moments of its start: it may have begun a new segment, or not."""
    server = Victim(tmp_path, "--segment-bytes", "65536")
    with server:
        with Client(server.url) as client:
            for number in range(500):
                body = {"id": f"p{number}", "timeout": FAR_MS}
                assert client.call("POST", "/promises", body)[0] == 201
        server.kill9()
        for step in range(1, 5):
            server.start_and_kill(0.2 * step)
            # The signal's default action, as long as the program has not begun.
            assert server.start_and_terminate(0.2 * step) in {0, -signal.SIGTERM}
        server.start()
        with Client(server.url) as client:
            assert len(search_all(client)) == 500
            assert client.call("POST", "/promises", {"id": "after", "timeout": FAR_MS})[0] == 201
        assert server.terminate() == 0
        server.start()
        assert server.request("GET", "/promises/after")[0] == 200
