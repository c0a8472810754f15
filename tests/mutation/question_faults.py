"""The planted faults of what the server says about itself: counts, lists, why something waits."""

from .fault import Fault, fault

CHECKPOINTING, COUNTS = "core/state/checkpointing.py", "core/test_counts.py"

QUESTION_FAULTS: tuple[Fault, ...] = (
    # Counts by state
    fault(
        "counts are not in the checkpoint",
        CHECKPOINTING,
        "        state.counts.copy(),\n",
        "        None,\n",
        f"{COUNTS}::test_a_checkpoint_without_counts_is_counted_once",
        is_quick=True,
    ),
    fault(
        "the counts of a checkpoint are not taken up",
        CHECKPOINTING,
        "    state.counts = loaded.counts\n",
        "",
        f"{COUNTS}::test_each_state_is_counted",
    ),
    fault(
        "what retention deletes stays in the counts",
        "core/state/deletions.py",
        "        state.counts.promise_deleted(promise)\n",
        "",
        f"{COUNTS}::test_retention_takes_what_it_deletes_out_of_the_counts",
    ),
)
