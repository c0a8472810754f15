"""The planted faults of bulk jobs: what they touch, how far they are, what they count."""

from .fault import Fault, fault

DECISIONS, JOBS = "core/decisions/bulk.py", "shards/bulk/jobs.py"
ERRANDS, GROUPS = "shards/mesh/errands.py", "shards/mesh/test_bulk_of_groups.py"
SLICES, DRIVEN, HTTP = "core/test_bulk.py", "shards/test_bulk_jobs.py", "http/bulk/test_bulk.py"

BULK_FAULTS: tuple[Fault, ...] = (
    fault(
        "bulk touches later ones",
        "core/bulk.py",
        "        return tuple(place + 1 for place in self.through)\n",
        "        return tuple(2**62 for _ in self.through)\n",
        f"{SLICES}::test_what_is_made_later_is_left_alone",
        f"{HTTP}::test_bulk_leaves_later_ones",
        is_quick=True,
    ),
    fault(
        "a bulk job touches ids without its maker's prefix",
        DECISIONS,
        "Pattern(job.filter.pattern, job.id_prefix)",
        "Pattern(job.filter.pattern)",
        f"{HTTP}::test_a_token_with_a_prefix_touches_and_sees_its_own",
        is_quick=True,
    ),
    fault(
        "a bulk job reaches what has completed since its start",
        DECISIONS,
        "promise.completed_on <= job.created_on",
        "True",
        f"{SLICES}::test_what_has_completed_since_the_start_was_pending_then",
    ),
    fault(
        "a bulk job that has ended goes on",
        DECISIONS,
        " and job.state is BulkState.RUNNING else None",
        " else None",
        f"{SLICES}::test_a_job_that_has_ended_does_nothing",
    ),
    fault(
        "a slice of a bulk job does whatever hangs on its promises",
        DECISIONS,
        "        if effects_left_count <= 0:\n",
        "        if effects_left_count <= -(10**9):\n",
        f"{SLICES}::test_a_slice_ends_when_enough_hangs_on_what_it_completes",
    ),
    fault(
        "how far a bulk job is is not in the checkpoint",
        "core/state/checkpointing.py",
        "        dict(state.bulk_parts),\n",
        "        {},\n",
        f"{SLICES}::test_a_checkpoint_keeps_how_far_a_shard_is",
        is_quick=True,
    ),
    fault(
        "a bulk job forgets at a restart what it has done",
        JOBS,
        "                running.parts = parts.get(job.id, {})\n",
        "",
        f"{DRIVEN}::test_a_crash_at_any_point_leaves_a_job_that_goes_on",
        is_quick=True,
    ),
    fault(
        "a dry run does what it counts",
        JOBS,
        "            if running.job.dry_run:\n                return True\n",
        "",
        f"{HTTP}::test_bulk_dry_run_equals_run",
        is_quick=True,
    ),
    fault(
        "a bulk job that was ended by a crash is not closed",
        JOBS,
        "                if job.id in parts:\n                    await self._close(job)\n",
        "",
        f"{DRIVEN}::test_a_crash_at_any_point_leaves_a_job_that_goes_on",
    ),
    fault(
        "a bulk job deletes what a running workflow has made",
        DECISIONS,
        "        refusal = self._wanted.refusal(found)\n",
        "        refusal = Code.PROMISE_PENDING if found.state is PENDING else None\n",
        f"{SLICES}::test_what_may_go_is_deleted_and_the_rest_is_passed_over",
    ),
    fault(
        "a bulk job passes over what may go while a completion is under way",
        DECISIONS,
        '        return self._context.is_awaited("")\n',
        "        return False\n",
        f"{SLICES}::test_a_deletion_waits_while_a_completion_is_under_way",
    ),
    fault(
        "a misspelled filter of a bulk job is passed over",
        "http/bulk/filters.py",
        "    if unknown:\n",
        "    if False:\n",
        f"{HTTP}::test_a_wrong_job_is_refused",
    ),
    fault(
        "a bulk job goes faster than it was asked to",
        "shards/bulk/pacing.py",
        " + acts_count / self._rate_count\n",
        "\n",
        f"{DRIVEN}::test_the_pace_is_what_was_asked",
    ),
    fault(
        "a bulk deletion does not heed what other groups need",
        ERRANDS,
        "        free = [one.id for one in promises if one.id not in in_use]\n",
        "        free = [one.id for one in promises]\n",
        f"{GROUPS}::test_a_deletion_heeds_what_other_groups_need",
        is_quick=True,
    ),
    fault(
        "a bulk deletion passes over what may go while another group completes",
        ERRANDS,
        "        if ANY_PROMISE in in_use:\n            raise Overloaded\n",
        "",
        f"{GROUPS}::test_a_deletion_waits_while_another_group_completes",
    ),
    fault(
        "a bulk job on tasks is broken off when a process is away",
        "shards/bulk/works.py",
        "            except Overloaded:\n",
        "            except ZeroDivisionError:\n",
        f"{GROUPS}::test_tasks_of_all_groups_are_sent_again",
    ),
    fault(
        "progress of a bulk job whose answer was lost counts twice",
        DECISIONS,
        "    if part is not None and part.places == command.places:\n",
        "    if False:\n",
        f"{SLICES}::test_progress_that_is_noted_again_counts_once",
    ),
    fault(
        "jobs are forgotten when a process is away while process 0 starts",
        JOBS,
        "            except (Overloaded, LinkBroken):\n",
        "            except ZeroDivisionError:\n",
        f"{GROUPS}::test_jobs_go_on_though_a_process_goes_away_at_the_start",
    ),
)
