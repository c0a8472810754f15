"""Requests and answers recorded on the reference server, replayed against a server of ours.

Status, error code and body of every step must be as recorded; the wording of errors is not
compared. `python -m tests.proofs.cluster_vectors` sends each request to another node of a cluster.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.replaying import all_scenes, all_vectors, replay, replay_scenes
from tests.helpers.server import ServerProcess


@pytest.mark.slow
def test_every_vector_matches_before_and_after_a_crash(server: ServerProcess) -> None:
    assert replay(server) == all_vectors()

    # The second run meets a server that has recovered all that the first has left behind, and
    # more connections at once.
    server.restart()
    assert replay(server, "--threads", "64") == all_vectors()


@pytest.mark.slow
def test_every_vector_matches_with_several_processes(shared_processes: ServerProcess) -> None:
    assert replay(shared_processes) == all_vectors()


@pytest.mark.slow
@pytest.mark.own_core
def test_every_scene_of_the_envelope_protocol_holds(
    server: ServerProcess, shared_processes: ServerProcess
) -> None:
    """Before and after a crash, and with several processes: side by side, since scenes wait."""
    with ThreadPoolExecutor() as pool:
        with_several = pool.submit(replay_scenes, shared_processes)
        assert replay_scenes(server).startswith(all_scenes())
        assert with_several.result().startswith(all_scenes())
    server.restart()
    assert replay_scenes(server, "--threads", "64").startswith(all_scenes())
