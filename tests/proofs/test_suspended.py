"""The short version of the proof in `suspended.py`, with limits that a busy machine keeps."""

from pathlib import Path

import pytest

from .suspended import measure

BYTES_PER_WORKFLOW_AT_MOST = 1_800
"""1,200 to 1,280 of 10,000."""
WAKEUPS_PER_S_AT_MOST = 6.0
"""4.0."""
IDLE_PERCENT_AT_MOST = 1.0
"""0.21 while other work keeps both cores busy, which makes all that wakes up dearer."""


@pytest.mark.slow
@pytest.mark.own_core
def test_what_waits_costs_little(tmp_path: Path) -> None:
    waiting = measure(tmp_path, workflows_count=10_000, workers_count=100, idle_s=5.0)

    print(waiting)
    assert waiting.bytes_per_workflow <= BYTES_PER_WORKFLOW_AT_MOST
    assert waiting.idle_percent < IDLE_PERCENT_AT_MOST
    assert waiting.wakeups_per_s <= WAKEUPS_PER_S_AT_MOST
