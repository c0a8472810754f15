"""Bulk jobs among random commands, checkpoints and crashes, against the model."""

from collections import Counter

import pytest

from .bulk_drive import BulkDrive

RUNS_COUNT = 120
STEPS_COUNT = 120
EVENTS = {
    *("job", "slice that did something", "slice for nothing", "slice after the end", "count"),
    *("end", "crash", "evicted"),
}


@pytest.mark.slow
def test_bulk_jobs_do_what_the_model_says() -> None:
    """One seed a run, with one shard and four, with checkpoints and without."""
    events: Counter[str] = Counter()
    for seed in range(RUNS_COUNT):
        drive = BulkDrive(seed, (1, 4)[seed % 2], is_lazy=False, makes_checkpoints=seed % 4 >= 2)
        try:
            drive.run(STEPS_COUNT)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        events += drive.events

    assert set(events) >= EVENTS
