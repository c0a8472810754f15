"""The planted faults of what the server says about itself: counts, lists, why something waits."""

from .fault import Fault, fault

CHECKPOINTING, COUNTS = "core/state/checkpointing.py", "core/test_counts.py"
LISTS = "http/questions/test_lists.py"

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
        "    state.counts.add(loaded.counts)\n",
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
    # Searches whose pages end early
    fault(
        "a page that ends early loses its cursor",
        "shards/gather.py",
        "            return certain, sign * reached\n",
        "            return certain, None\n",
        "shards/test_partial_search.py",
        is_quick=True,
    ),
    fault(
        "a page that ends early leaves out what not all shards have reached",
        "shards/gather.py",
        "            return certain, sign * reached\n",
        "            return rows, sign * min(unread.values())\n",
        "shards/test_partial_search.py",
    ),
    fault(
        "a list of locks ends where one is released while a page is made",
        "shards/surveys/locks.py",
        "return LockPage(rows, LockPlace(reached) if has_more else None)",
        "return LockPage(rows, LockPlace(reached) if len(rows) >= limit_count else None)",
        "shards/surveys/test_locks.py",
    ),
    # What a token with a prefix may see
    fault(
        "lists of tasks show what a token may not name",
        "shards/surveys/tasks.py",
        'self._root = Pattern(query.root or "*", query.id_prefix)',
        'self._root = Pattern(query.root or "*")',
        f"{LISTS}::test_a_token_with_a_prefix_lists_only_what_begins_so",
        is_quick=True,
    ),
    fault(
        "lists of deadlines show what a token may not name",
        "shards/surveys/timers.py",
        "            return promise_id.startswith(self._id_prefix)\n",
        "            return True\n",
        f"{LISTS}::test_a_token_with_a_prefix_lists_only_what_begins_so",
    ),
    fault(
        "a tree shows what a token may not name",
        "shards/surveys/tree.py",
        "            if promise is not None and promise.id.startswith(self._id_prefix):\n",
        "            if promise is not None:\n",
        "http/questions/test_tree.py::test_a_token_with_a_prefix_sees_its_part_of_the_tree",
    ),
    # What answers cost others
    fault(
        "all looks at much have a slice in every round of the loop",
        "shards/surveys/pace.py",
        "        await turns.wait()\n",
        "        await trio.lowlevel.checkpoint()\n",
        "shards/test_pace.py::test_however_many_look_others_wait_for_one_slice",
        is_quick=True,
    ),
    # Why a promise is pending
    fault(
        "a dead worker's lease looks like a busy worker's",
        "shards/surveys/causes.py",
        "Reason.HOLDER_GONE if is_connected is False else Reason.HELD",
        "Reason.HELD",
        "http/questions/test_why_for_real.py::test_a_dead_workers_lease",
    ),
    fault(
        "a promise that waits for others is not followed down",
        "shards/surveys/why.py",
        "        return LocalCause(awaited=resumed_by) if resumed_by else local",
        "        return local",
        "http/questions/test_why_for_real.py::test_another_promise",
    ),
)
