"""The state machine of one shard: commands go in, replies and effects come out.

`Machine.step(command, now_ms)` is the only way in; `carry_out` is the same for many in turn. It is
deterministic: no clock, no I/O, no randomness (invariant I4). What a command does is decided by the
function that `table.py` names for its type. It works with a `DecisionContext` (`deciding.py`) and
emits records, which `apply.py` applies. After that the step says what follows: tasks to send,
timers, messages for other shards.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import ClassVar

from msgspec import Struct

from troth.core.decisions import leases
from troth.core.decisions.table import DECISIONS
from troth.core.state.shard_state import TimerKey

from . import records as r
from .commands import (
    DELAY_TIMER,
    EXECUTION_TIMER,
    LOCK_TIMER,
    SCHEDULE_TIMER,
    TASK_TIMER,
    UNBLOCK_TIMER,
    WORKFLOW_TIMER,
    Command,
    CreatePromise,
    ReadPromise,
    Receive,
)
from .continuations import ContinueCompletions
from .deciding import DONE, DecisionContext, RunsSkipped
from .limits import (
    DISPATCH_LIMIT_COUNT,
    UNBLOCK_LIMIT_MS,
    WORKFLOW_IDLE_COUNT,
    WORKFLOW_IDLE_FIRST_MS,
    WORKFLOW_IDLE_LIMIT_MS,
    saturating_add,
)
from .model import INIT, TAG_TARGET, TAG_TIMER, Promise
from .replies import ExecuteMessage, Message, Reply, TaskMessage, UnblockMessage
from .workflow_commands import ExecuteNotSent
from .workflows import ACQUIRED, WAITING


class Step(Struct, gc=False):
    """What one command led to.

    The records must be durable before the reply, the sends and the withdrawals leave the shard.
    `promise_timers` are promises that began to be pending, whose timers are to be set to their
    timeouts, or ceased to be, whose timers are to be canceled. `timers` are all others: (key,
    deadline in ms or None to cancel), the last entry of a key counts. `posts` are commands for
    other shards; `received` names the (source, sequence) to acknowledge when durable; `finished`
    names the executions that were.

    With `has_more` there are further messages, for which `GoOn` is to be stepped soon. With `again`
    the command has only begun: this one is to be stepped soon, and its reply is the command's, not
    the one given here. If it `waits`, it is to be stepped when another group is done with a task.

    `pending` are the promises that were pending already at a start, whose timers are to be set,
    too: their ids and their timeouts.

    Most commands lead to the first three at most; `has_effects` tells whether there is more, and
    `has_rare_effects` whether there is any of the last.
    """

    reply: Reply
    records: Sequence[r.Record] = ()
    promise_timers: Sequence[Promise] = ()
    has_effects: bool = False
    timers: Sequence[tuple[TimerKey, int | None]] = ()
    sends: Sequence[Message] = ()
    withdrawals: Sequence[str] = ()
    has_rare_effects: bool = False
    posts: Sequence[tuple[int, Receive]] = ()
    received: tuple[int, int] | None = None
    skipped: Sequence[RunsSkipped] = ()
    finished: Sequence[str] = ()
    has_more: bool = False
    again: Command | None = None
    waits: bool = False
    pending: tuple[Sequence[str], Sequence[int]] = ((), ())


class Machine(DecisionContext):
    """One shard's state machine."""

    says_when_sent: ClassVar[bool] = False
    """Whether messages to shards say when they were sent: a receiver may have another clock."""

    def step(self, command: Command, now_ms: int) -> Step:
        """Carry out one command at the time `now_ms`; return all that it led to.

        If that is earlier than before, `ResumeTime(was_set_back=True)` comes first, and then
        `RearmTimers` for every timer that was set.
        """
        step = self.carry_out(command, now_ms)
        return self._with_rest(step if isinstance(step, Step) else Step(step))

    def carry_out(self, command: Command, now_ms: int) -> Step | Reply:
        """Do as `step`, but leave the records and the timers of promises here, for `take_rest`.

        So they are taken once for many commands, after all of them. What nothing else follows from,
        as from most commands, is told by its reply alone.
        """
        kind = type(command)
        if kind is not CreatePromise and self.state.fresh:
            self.settle()
        self.left_count = len(self.records)
        reply = DECISIONS[kind](self, command, now_ms)
        if self.changes_one_promise:
            self.changes_one_promise = False
            return reply
        if kind is ReadPromise and len(self.records) == self.left_count:
            return reply
        step = Step(reply)
        self._finish(step, now_ms)
        return step if step.has_effects else reply

    def take_rest(self) -> tuple[list[r.Record], list[Promise]]:
        """Take the records and the timers of promises that `carry_out` has left here."""
        state = self.state
        if state.fresh:
            state.settle()
        if state.unpacked:
            state.pack()
        records, self.records, self.left_count = self.records, [], 0
        promise_timers, state.promise_timers = state.promise_timers, []
        return records, promise_timers

    @property
    def is_clean(self) -> bool:
        """Return whether no record was emitted since a command was begun, as after a failed one."""
        return not self.records_count

    def _with_rest(self, step: Step) -> Step:
        step.records, step.promise_timers = self.take_rest()
        return step

    def note(self, command: ExecuteNotSent) -> None:
        """Carry out a command that only changes a note: no step is needed, since nothing follows.

        Not to be called in the middle of a step.
        """
        DECISIONS[type(command)](self, command, 0)

    def start(self, now_ms: int) -> Step:
        """Start after the replay: look at everything that waits to be sent or was on its way.

        The step's timers are all that the shard needs; its posts are the outbox, sent again. No
        lease ends through the time that the server was away.
        """
        state = self.state
        state.activity = self.activity
        leases.start(self, now_ms)
        state.promise_timers.clear()
        state.timers.clear()
        state.timers.extend(self.deadlines())
        state.touched_roots.update(dict.fromkeys(state.roots))
        state.new_notifications.extend(
            task for task in state.notifications.values() if task.state is INIT
        )
        state.touched_workflows.update(dict.fromkeys(state.workflows))
        for workflow in state.workflows.values():
            workflow.backs_off = False
        state.new_unblocks.extend(
            (promise_id, address)
            for promise_id, addresses in state.unblocks.items()
            for address in addresses
        )
        state.begun_completions.extend(state.completions)
        state.messages.extend(state.outbox)
        step = Step(DONE)
        self._finish(step, now_ms)
        step.pending = state.promises.timeouts()
        return self._with_rest(step)

    def _finish(self, step: Step, now_ms: int) -> None:
        """Note what follows from a command, apart from what `take_rest` gives."""
        state = self.state
        # Dispatching sets timers, so it comes first.
        if (
            state.touched_roots
            or state.new_notifications
            or state.touched_workflows
            or state.new_unblocks
        ):
            step.sends = self._dispatch_all(now_ms)
            step.has_effects = True
            if state.later_workflows or state.later_roots or state.new_unblocks:
                step.has_more = step.has_rare_effects = True
        if state.timers:
            step.timers, state.timers = state.timers, []
            step.has_effects = True
        if state.withdrawals:
            step.withdrawals, state.withdrawals = state.withdrawals, []
            step.has_effects = True
        if (
            state.messages
            or self.received is not None
            or state.finished
            or state.begun_completions
            or self.again is not None
            or self._skipped
        ):
            self._finish_rarely(step, now_ms)

    def _finish_rarely(self, step: Step, now_ms: int) -> None:
        """Note what few steps lead to: messages to shards, more to do, and what was left out."""
        state, sent_ms = self.state, now_ms if self.says_when_sent else 0
        step.posts = [
            (target, Receive(state.index, number, message, sent_ms))
            for target, number, message in state.messages
        ]
        state.messages = []
        step.received, self.received = self.received, None
        step.finished, state.finished = state.finished, []
        step.again, self.again = self.again, None
        if state.begun_completions:
            step.again = ContinueCompletions(tuple(state.begun_completions), step.reply, step.again)
            state.begun_completions = []
        step.skipped, self._skipped = self._skipped, []
        step.has_effects = step.has_rare_effects = True

    # Dispatch: which messages go out

    def _dispatch_all(self, now_ms: int) -> list[Message]:
        state = self.state
        sends: list[Message] = []
        if state.touched_roots or state.new_notifications:
            self._dispatch(sends, now_ms)
        if state.touched_workflows:
            self._dispatch_workflows(sends, now_ms)
        if state.new_unblocks:
            self._dispatch_unblocks(sends)
        return sends

    def _dispatch(self, sends: list[Message], now_ms: int) -> None:
        state = self.state
        touched = state.touched_roots
        if len(touched) > DISPATCH_LIMIT_COUNT:
            state.later_roots.extend(islice(touched, DISPATCH_LIMIT_COUNT, None))
            touched = dict.fromkeys(islice(touched, DISPATCH_LIMIT_COUNT))
        for root_id in touched:
            self._offer(root_id, sends, now_ms)
        state.touched_roots.clear()
        for task in state.new_notifications:
            if task.state is INIT and not task.sending and task.timeout > now_ms:
                task.sending = True
                task.stalled = False
                sends.append(TaskMessage(task.copy(), state.find_promise(task.root_id)))
        state.new_notifications.clear()

    def _offer(self, root_id: str, sends: list[Message], now_ms: int) -> None:
        """Send the oldest task of a root that may go, if none is in flight (rest.md 5.3)."""
        state = self.state
        root = state.roots.get(root_id)
        if root is None or root.active_count or root.sending is not None:
            return
        if state.completions and root_id in state.completions:
            return  # its tasks are about to end
        while (task_id := root.pop()) is not None:
            task = root.find(task_id)
            if task is None:
                continue
            task.queued = False
            if task.state is not INIT or task.stalled or task.timeout <= now_ms:
                continue
            if task.not_before is not None and task.not_before > now_ms:
                state.timers.append(((DELAY_TIMER, task.id), task.not_before))
                continue
            task.sending = True
            root.sending = task.id
            sends.append(TaskMessage(task.copy()))
            return

    def _dispatch_workflows(self, sends: list[Message], now_ms: int) -> None:
        """Send the workflow tasks that wait for a worker, each when its time has come.

        That of a timer is never sent: workers would only claim and drop it (envelope.md 7.1).
        """
        state = self.state
        touched, state.touched_workflows = state.touched_workflows, {}
        if len(touched) > DISPATCH_LIMIT_COUNT:
            state.later_workflows.extend(islice(touched, DISPATCH_LIMIT_COUNT, None))
            touched = dict.fromkeys(islice(touched, DISPATCH_LIMIT_COUNT))
        for workflow_id in touched:
            task = state.workflows.get(workflow_id)
            if task is None or task.state is not WAITING or task.sending or task.stalled:
                continue
            promise = state.promises[workflow_id]
            assert promise.tags is not None, "it has a target"
            if promise.timeout <= now_ms or promise.tags.get(TAG_TIMER) == "true":
                continue
            if task.not_before is not None and task.not_before > now_ms:
                state.arm_workflow(workflow_id, task.not_before)
                continue
            if task.backs_off:
                task.backs_off = False
                if task.idle_count >= WORKFLOW_IDLE_COUNT:
                    state.arm_workflow(workflow_id, now_ms + idle_wait_ms(task.idle_count))
                    continue
            task.sending = True
            task.unclaimed = False
            target = promise.tags[TAG_TARGET]
            sends.append(ExecuteMessage(workflow_id, task.version, target, promise.trace))

    def _dispatch_unblocks(self, sends: list[Message]) -> None:
        """Tell listeners that their promises have settled."""
        state = self.state
        new = state.new_unblocks
        told = [new.popleft() for _ in range(min(len(new), DISPATCH_LIMIT_COUNT))]
        for promise_id, address in told:
            promise = state.find_promise(promise_id)
            if promise is not None and address in state.unblocks.get(promise_id, ()):
                sends.append(UnblockMessage(promise, address))

    def deadlines(self) -> Iterator[tuple[TimerKey, int | None]]:
        """Yield every deadline but those of promises, for a timing wheel that starts empty."""
        state = self.state
        for task in state.tasks.values():
            deadline = state.timer_of(task)
            if deadline is not None:
                yield (TASK_TIMER, task.id), deadline
        for lock in state.locks.values():
            yield (LOCK_TIMER, lock.resource_id), state.end_of_lock(lock)
        for schedule in state.schedules.values():
            if schedule.due_on is not None:
                yield (SCHEDULE_TIMER, schedule.id), schedule.due_on
        for workflow in state.workflows.values():
            if workflow.state is ACQUIRED:
                yield (WORKFLOW_TIMER, workflow.id), state.end_of_workflow_lease(workflow)
        for promise_id, addresses in state.unblocks.items():
            settled_at = max(addresses.values())
            yield (UNBLOCK_TIMER, promise_id), saturating_add(settled_at, UNBLOCK_LIMIT_MS)
        for execution in state.executions.values():
            ends_on = state.end_of_execution(execution)
            if ends_on is not None:
                yield (EXECUTION_TIMER, execution.promise_id), ends_on


def idle_wait_ms(idle_count: int) -> int:
    """Return how long to hold back a workflow task after this many releases without progress."""
    exponent = min(idle_count - WORKFLOW_IDLE_COUNT, 16)
    return min(WORKFLOW_IDLE_FIRST_MS << exponent, WORKFLOW_IDLE_LIMIT_MS)
