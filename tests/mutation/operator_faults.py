"""The planted faults of what operators do and read: deleting, schedules, metrics."""

from .fault import Fault, fault

DELETIONS, TEST_DELETIONS = "core/decisions/deletions.py", "core/test_deletions.py"
SCHEDULES, TEST_SCHEDULES = "core/decisions/schedules.py", "http/promises/test_schedule_control.py"
TEST_ACTIVITY = "core/test_activity.py"

OPERATOR_FAULTS: tuple[Fault, ...] = (
    fault(
        "a client deletes what a task of another shard is about",
        DELETIONS,
        " or context.is_awaited(promise_id)\n",
        "\n",
        f"{TEST_DELETIONS}::test_a_promise_goes_with_its_tasks_of_every_kind",
        is_quick=True,
    ),
    fault(
        "a client deletes what a running workflow will read",
        DELETIONS,
        "        if self._lineage.keeps(promise):\n",
        "        if False:\n",
        f"{TEST_DELETIONS}::test_what_a_workflow_has_made_stays_while_it_runs",
    ),
    fault(
        "a client deletes what a listener is still to be told",
        DELETIONS,
        "        if promise.id in context.state.unblocks or is_in_use(context, promise.id):\n",
        "        if is_in_use(context, promise.id):\n",
        f"{TEST_DELETIONS}::test_a_promise_stays_until_its_listeners_were_told",
    ),
    fault(
        "tasks of a promise made again count from the beginning",
        DELETIONS,
        "            counter = max(counter, task_counter)\n",
        "",
        f"{TEST_DELETIONS}::test_a_promise_goes_with_its_tasks_of_every_kind",
    ),
    fault(
        "a paused schedule fires",
        "core/model.py",
        "        return self.next_run_time if self.paused_on is None else None\n",
        "        return self.next_run_time\n",
        f"{TEST_SCHEDULES}::test_a_paused_schedule_makes_nothing_and_then_makes_up_for_it",
        is_quick=True,
    ),
    fault(
        "a schedule that is resumed leaves out more runs than was said",
        SCHEDULES,
        "        resumed = replace(resumed, next_run_time=following)\n",
        "        resumed = replace(resumed, next_run_time=None)\n",
        f"{TEST_SCHEDULES}::test_resuming_says_how_many_runs_count",
    ),
    fault(
        "a token with a prefix resumes a schedule that makes promises elsewhere",
        SCHEDULES,
        "    if not runs_within(schedule, command.id_prefix):\n",
        "    if False:\n",
        f"{TEST_SCHEDULES}::test_a_limited_token_cannot_have_promises_made_elsewhere",
    ),
    fault(
        "another expression keeps the next run of the earlier one",
        SCHEDULES,
        "        changed = replace(changed, next_run_time=next_run_time)\n",
        "",
        f"{TEST_SCHEDULES}::test_a_change_leaves_what_it_does_not_name",
    ),
    fault(
        "a replay counts as work done since the start",
        "core/machine.py",
        "        state.activity = self.activity\n",
        "        self.activity = state.activity\n",
        f"{TEST_ACTIVITY}::test_a_replay_counts_nothing",
    ),
    fault(
        "an attempt that a restart has cut has a length",
        "core/state/activity.py",
        "            since = task.since\n            if since is None:\n",
        "            since = task.since or 0\n            if since is None:\n",
        f"{TEST_ACTIVITY}::test_how_long_a_lease_was_held_is_unknown_after_a_restart",
    ),
)
"""Deleting, schedules, and metrics."""
