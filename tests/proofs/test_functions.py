"""The short version of the proof in `functions.py`."""

from pathlib import Path

import pytest

from .functions import SLOTS_COUNT, Proof

SEED = 3
TASKS_COUNT = 60


@pytest.mark.slow
def test_every_task_ends_once_though_a_node_and_the_server_are_killed(tmp_path: Path) -> None:
    print(f"seed {SEED}")

    report = Proof(tmp_path, SEED, TASKS_COUNT, nodes_count=2, killed_nodes_count=1).run()

    assert report.tasks_count == TASKS_COUNT
    assert report.executions_count >= TASKS_COUNT
    assert (report.node_kills_count, report.server_kills_count) == (1, 1)
    assert report.explained_count == SLOTS_COUNT + 2 * SLOTS_COUNT
    assert report.results_before_kills_count > 0
