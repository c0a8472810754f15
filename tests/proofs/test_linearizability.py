"""What clients of a real server see is linearizable, also while it is killed and started again."""

from pathlib import Path

import pytest

from tests.helpers.server import ServerProcess
from tests.simulation.linearizability import LockModel, PromiseModel, RootModel, check

from .histories import Recorder

SEED = 5
KILLS_COUNT = 4


@pytest.mark.slow
def test_histories_over_kills_have_an_explanation(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        recorder = Recorder(server, SEED)
        recorder.run(KILLS_COUNT)
    histories = recorder.histories

    assert check(PromiseModel(), histories["promises"]) == [], f"seed {SEED}"
    assert check(LockModel(), histories["locks"]) == [], f"seed {SEED}"
    assert check(RootModel(), histories["tasks"]) == [], f"seed {SEED}"
    for kind, history in histories.items():
        assert len(history) >= 50, f"there were hardly any requests about {kind}"
