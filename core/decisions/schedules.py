"""What the schedule commands do, and how schedules fire (rest.md 8, decisions.md 1).

A run is one instant of a schedule's cron expression. Each run creates one promise, exactly once:
the record that moves the schedule on also carries the promise. Runs missed during a downtime are
made up for in order; beyond the configured count the oldest are left out. So are those that a
schedule has missed while it was paused: `next_run_time` stays at the first of them.
"""

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.catalog import is_reserved
from troth.core.codes import Code
from troth.core.commands import (
    SCHEDULE_TIMER,
    CreateSchedule,
    DeleteSchedule,
    Expire,
    PauseSchedule,
    ReadSchedule,
    ResumeSchedule,
    SearchSchedules,
    UpdateSchedule,
)
from troth.core.deciding import DecisionContext, RunsSkipped
from troth.core.grammar.patterns import Pattern
from troth.core.grammar.templates import beginning, expand
from troth.core.limits import SCHEDULE_BATCH_COUNT
from troth.core.model import TAG_TARGET, Schedule, replace
from troth.core.replies import Reply, SchedulePage
from troth.core.schedule_runs import ContinueResume, MissedRuns, run_of, trace_of_run
from troth.core.seeds import seed_of, workflow_seed_of
from troth.core.state.activity import Firing

from .promises import keys_match


def create_schedule(context: DecisionContext, command: CreateSchedule, now_ms: int) -> Reply:
    """Create a schedule, or answer the existing one if the idempotency keys match.

    The caller has checked the cron expression and the template.
    """
    # A timestamp is digits, so no run's id is reserved if that of the first instant is not.
    if is_reserved(expand(command.promise_id, command.id, 0)):
        return Reply(Code.RESERVED_ID)
    existing = context.state.schedules.get(command.id)
    if existing is not None:
        if keys_match(existing.idempotency_key, command.idempotency_key):
            return Reply(Code.OK, schedule=existing)
        return Reply(Code.SCHEDULE_EXISTS)
    schedule = Schedule(
        command.id,
        context.next_serial(),
        command.cron,
        command.promise_id,
        command.promise_timeout,
        now_ms,
        context.cron(command.cron).next_after_ms(now_ms),
        command.description,
        command.tags or None,
        command.promise_param,
        command.promise_tags or None,
        command.idempotency_key,
    )
    context.emit(r.ScheduleCreated(schedule))
    return Reply(Code.CREATED, schedule=schedule)


def read_schedule(context: DecisionContext, command: ReadSchedule, now_ms: int) -> Reply:
    """Read a schedule."""
    schedule = context.state.schedules.get(command.id)
    if schedule is None:
        return Reply(Code.SCHEDULE_NOT_FOUND)
    return Reply(Code.OK, schedule=schedule)


def update_schedule(context: DecisionContext, command: UpdateSchedule, now_ms: int) -> Reply:
    """Change a schedule. With another expression it runs next at the first time after now.

    The caller has checked the cron expression and the template.
    """
    schedule = context.state.schedules.get(command.id)
    if schedule is None:
        return Reply(Code.SCHEDULE_NOT_FOUND)
    given = {name: getattr(command, name) for name in _CHANGEABLE}
    changed = replace(schedule, **{name: one for name, one in given.items() if one is not None})
    changed = replace(changed, tags=changed.tags or None, promise_tags=changed.promise_tags or None)
    if is_reserved(expand(changed.promise_id, changed.id, 0)):
        return Reply(Code.RESERVED_ID)
    if not runs_within(changed, command.id_prefix):
        return Reply(Code.FORBIDDEN_PREFIX)
    if changed.cron != schedule.cron:
        next_run_time = context.cron(changed.cron).next_after_ms(now_ms)
        changed = replace(changed, next_run_time=next_run_time)
        context.catching_up.discard(schedule.id)
    return _changed(context, schedule, changed)


_CHANGEABLE = (
    *("cron", "promise_id", "promise_timeout", "description", "tags"),
    *("promise_param", "promise_tags"),
)


def pause_schedule(context: DecisionContext, command: PauseSchedule, now_ms: int) -> Reply:
    """Pause a schedule; one that is paused stays so."""
    schedule = context.state.schedules.get(command.id)
    if schedule is None:
        return Reply(Code.SCHEDULE_NOT_FOUND)
    if schedule.paused_on is not None:
        return Reply(Code.OK, schedule=schedule)
    return _changed(context, schedule, replace(schedule, paused_on=now_ms))


def resume_schedule(context: DecisionContext, command: ResumeSchedule, now_ms: int) -> Reply:
    """Resume a paused schedule; its timer makes up for what it has missed."""
    schedule = context.state.schedules.get(command.id)
    if schedule is None:
        return Reply(Code.SCHEDULE_NOT_FOUND)
    if not runs_within(schedule, command.id_prefix):
        return Reply(Code.FORBIDDEN_PREFIX)
    if schedule.paused_on is None:
        return Reply(Code.OK, schedule=schedule)
    first, limit = schedule.next_run_time, command.catch_up_count
    if first is not None and first <= now_ms and limit is not None:
        missed = MissedRuns(schedule, now_ms, limit)
        return continue_resume(context, ContinueResume(command, missed), now_ms)
    return _changed(context, schedule, replace(schedule, paused_on=None))


def continue_resume(context: DecisionContext, command: ContinueResume, now_ms: int) -> Reply:
    """Count a slice of what was missed; resume the schedule when it is known from where on."""
    missed = command.missed
    schedule = context.state.schedules.get(missed.schedule.id)
    if schedule is not missed.schedule:  # it was changed in the meantime
        return resume_schedule(context, command.resume, now_ms)
    cron, first = context.cron(schedule.cron), schedule.next_run_time
    if not missed.count(cron, context.options.missed_slice_count):
        context.again = command
        return Reply(Code.OK)
    resumed = replace(schedule, paused_on=None)
    if not missed.are_all_made_up:
        following = missed.resumed_at(cron)
        resumed = replace(resumed, next_run_time=following)
        assert first is not None, "otherwise nothing was missed"
        context.note_skipped(RunsSkipped(schedule.id, first, following))
    context.catching_up.add(schedule.id)  # the server's rule leaves out no more of them
    return _changed(context, schedule, resumed)


def _changed(context: DecisionContext, old: Schedule, new: Schedule) -> Reply:
    if new != old:
        context.emit(r.ScheduleChanged(new))
    return Reply(Code.OK, schedule=new)


def runs_within(schedule: Schedule, id_prefix: str) -> bool:
    """Return whether the ids of all promises that a schedule makes begin so."""
    return beginning(schedule.promise_id, schedule.id).startswith(id_prefix)


def delete_schedule(context: DecisionContext, command: DeleteSchedule, now_ms: int) -> Reply:
    """Delete a schedule."""
    if command.id not in context.state.schedules:
        return Reply(Code.SCHEDULE_NOT_FOUND)
    context.emit(r.ScheduleDeleted(command.id))
    context.catching_up.discard(command.id)
    context.missed_runs.pop(command.id, None)
    return Reply(Code.NO_CONTENT)


def search_schedules(context: DecisionContext, command: SearchSchedules, now_ms: int) -> Reply:
    """Return one page of this shard's schedules that match, newest first."""
    matched, next_before = find(context, command)
    return Reply(Code.OK, schedules=SchedulePage(tuple(matched), next_before))


def find(context: DecisionContext, command: SearchSchedules) -> tuple[list[Schedule], int | None]:
    """Return what of this shard a search wants, and the serial to continue below."""
    pattern = Pattern(command.pattern, command.id_prefix)
    matched: list[Schedule] = []
    last = command.before_serial
    index = context.state.schedule_index
    for serial, schedule_id in index.below(command.before_serial, command.scan_count):
        last = serial
        if not pattern.matches(schedule_id):
            continue
        schedule = context.state.schedules[schedule_id]
        tags = schedule.tags or {}
        promise_tags = schedule.promise_tags or {}
        if all(tags.get(key) == value for key, value in command.tags.items()) and all(
            promise_tags.get(key) == value for key, value in command.promise_tags.items()
        ):
            matched.append(schedule)
            if len(matched) == command.limit_count:
                break
    return matched, last if index.has_below(last) else None


def fire(context: DecisionContext, schedule_id: str, now_ms: int) -> None:
    """Handle the schedule's timer: create the promises of the runs that are due, in order.

    One call creates at most SCHEDULE_BATCH_COUNT; the timer of the next run then fires immediately.
    """
    runs_count = 0
    while True:
        schedule = context.state.schedules.get(schedule_id)
        if schedule is None or schedule.due_on is None:
            return
        run_time = schedule.due_on
        if run_time > now_ms:
            context.catching_up.discard(schedule_id)
            return
        if runs_count == SCHEDULE_BATCH_COUNT:
            return  # not caught up yet
        next_run_time = context.cron(schedule.cron).next_after_ms(run_time)
        if (
            next_run_time is not None
            and next_run_time <= now_ms
            and schedule_id not in context.catching_up
        ):
            is_skipped = _skip(context, schedule, now_ms)
            if is_skipped is None:
                context.again = Expire(SCHEDULE_TIMER, schedule_id)
                return
            context.catching_up.add(schedule_id)
            if is_skipped:
                continue
        _run(context, schedule, next_run_time, now_ms)
        runs_count += 1


def follow_clock(context: DecisionContext, schedule: Schedule, now_ms: int) -> None:
    """Bring a schedule's next run back to where the clock says, if it was set while it was ahead.

    A run that was made already then comes again, and finds its promise there.
    """
    run_time = schedule.next_run_time
    following = context.cron(schedule.cron).next_after_ms(now_ms)
    if run_time is not None and following is not None and following < run_time:
        context.emit(r.ScheduleSkipped(schedule.id, following))


def _skip(context: DecisionContext, schedule: Schedule, now_ms: int) -> bool | None:
    """Leave out the oldest missed runs, if there are too many; whether it did.

    None: they have not all been counted yet.
    """
    limit = context.options.catch_up_count
    first = schedule.next_run_time
    if limit is None or first is None:
        return False
    missed = context.missed_runs.pop(schedule.id, None)
    if missed is None or missed.schedule is not schedule or missed.until > now_ms:
        missed = MissedRuns(schedule, now_ms, limit)
    cron = context.cron(schedule.cron)
    if not missed.count(cron, context.options.missed_slice_count):
        context.missed_runs[schedule.id] = missed
        return None
    if missed.are_all_made_up:
        return False
    resumed_at = missed.resumed_at(cron)
    context.emit(r.ScheduleSkipped(schedule.id, resumed_at))
    context.note_skipped(RunsSkipped(schedule.id, first, resumed_at))
    context.state.activity.fired[Firing.MISSED] += 1
    return True


def _run(
    context: DecisionContext, schedule: Schedule, next_run_time: int | None, now_ms: int
) -> None:
    run_time = schedule.next_run_time
    assert run_time is not None, "a schedule that never runs has no timer"
    run = run_of(schedule, run_time)
    promise: r.PromiseMessage | w.WorkflowMessage
    trace = trace_of_run(schedule.id, run_time, context.options.samples_run)
    if TAG_TARGET in run.tags:
        workflow = workflow_seed_of(run.tags, run.timeout)
        assert workflow is not None, "there is a target"
        promise = w.WorkflowMessage(
            run.promise_id, run.timeout, run_time, schedule.promise_param, run.tags, workflow, trace
        )
    else:
        promise = r.PromiseMessage(
            run.promise_id, run.timeout, schedule.promise_param, run.tags, seed_of(run.tags), trace
        )
    serial = context.next_serial()
    activity = context.state.activity
    # In another group it cannot be looked at; most runs' promises are new.
    existed = context.is_near(run.promise_id) and (
        context.neighbor(run.promise_id).state.find_promise(run.promise_id) is not None
    )
    activity.run_fired(Firing.EXISTED if existed else Firing.CREATED, now_ms - run_time)
    context.emit(r.ScheduleFired(schedule.id, run_time, next_run_time, promise, serial, now_ms))
    if run.timeout <= now_ms and context.state.shard_of(run.promise_id) == context.state.index:
        context.promise(run.promise_id, now_ms)
