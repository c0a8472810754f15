"""The short version of the proof in `workflow_kill.py`, and that it finds what is lost."""

from pathlib import Path
from typing import Any

import pytest

from . import workflow_kill
from .support import Client, search_all
from .workflow_kill import Proof

SEED = 3
ROUNDS_COUNT = 2


@pytest.mark.slow
def test_kill_in_the_middle_of_workflows_loses_and_doubles_nothing(tmp_path: Path) -> None:
    print(f"seed {SEED}")

    report = Proof(tmp_path, SEED, print).run(ROUNDS_COUNT)

    assert report.rounds_count == ROUNDS_COUNT
    assert report.acknowledged_count > 100, "there was hardly any load"
    assert sum(report.doubts_count.values()) > ROUNDS_COUNT, "hardly anything was under way"


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["w0.0", "w0.0:0"])
def test_what_is_lost_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The fault is planted in what the proof is told: one promise is not there."""

    def forgetting(http: Client, pattern: str) -> list[dict[str, Any]]:
        return [one for one in search_all(http, pattern) if one["id"] != lost]

    monkeypatch.setattr(workflow_kill, "search_all", forgetting)
    with pytest.raises(AssertionError, match="differ"):
        Proof(tmp_path, SEED, print).run(1)
