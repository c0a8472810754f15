"""Passes: a task stays held while a request on its behalf is carried out in another group.

The group of the promise asks the task's group (`CheckFence`). If the task is held, that one gives a
*pass*: for `FENCE_PASS_MS` at most, and no longer than the lease and the promise's deadline, what
would end the task's hold waits. The asker carries the request out within that time, counted from
before it asked; so its time is over first, whatever the way takes. Then it returns the pass. What
is too late is not carried out, and asks again.

Both ends count on a monotonic clock of their own. Leases and deadlines follow the wall clock. If
that is set forward while a pass is out, it would end the hold too early: any command may find a
lease over. So all commands of the group wait then until the pass is over.
"""

from collections.abc import Callable
from math import inf
from typing import Final, final

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.deciding import DONE
from troth.core.machine import Machine, Step
from troth.core.model import Fence
from troth.core.replies import Reply
from troth.core.workflows import WorkflowFence
from troth.shards.hashing import home_of

_carry_out: Final = Machine.carry_out

PASS_IS_OVER: Final = Reply(Code.INTERNAL)
"""The reply to a command that was not carried out, since its pass had run out."""

ENDING: Final = frozenset(
    {
        *(c.CompletePromise, c.ClaimTask, c.CompleteTask, c.DropTask, c.RetryTask),
        *(c.CancelExecution, c.AssignExecution, c.ReturnExecution, c.FinishExecution),
        *(c.ReportExecution, c.DeletePromise),
        *(w.SettlePromise, w.CreateWorkflow, w.AcquireWorkflow, w.SuspendWorkflow),
        *(w.FulfillWorkflow, w.ReleaseWorkflow, w.HaltWorkflow, w.ContinueWorkflow),
        *(w.RetryExecute,),
    }
)
"""Commands that may end a task's hold, if they are about its promise."""

ENDING_ANY: Final = frozenset({c.RunBulk, w.ResetShard})
"""Commands that may end the hold of any task of the shard."""

FENCED: Final = frozenset(
    {c.CreatePromise, c.CompletePromise, c.CreateCallback, w.EnsurePromise, w.SettlePromise}
)
"""Commands that may be carried out on behalf of a task; most have no fence."""

_WITH_FENCE: Final = FENCED | {c.CheckFence, w.CheckWorkflowFence}


class PassedFence(Fence, frozen=True):
    """A fence that another group has judged. If the task is held, that is so until `until_s`."""

    until_s: float = 0.0
    is_over: Callable[[], None] | None = None
    """What is told when the command has been carried out, or is not going to be."""


class PassedWorkflowFence(WorkflowFence, frozen=True):
    """The same for a workflow task."""

    until_s: float = 0.0
    is_over: Callable[[], None] | None = None


@final
class GivenPasses:
    """The passes that this group has given to others. `now_s` is a monotonic clock.

    `when_over` is called when what has waited for one can go on.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.when_over: Callable[[], None] = lambda: None
        self.given: dict[str, dict[str, float]] = {}
        """Until when they last, by the promise whose tasks are held and the pass."""
        self._tasks: dict[str, str] = {}
        self._ends_ms: dict[str, int] = {}
        """When the wall clock is to say that they are over, by the pass."""
        self._first_end_ms: float = inf
        """None of these is earlier."""

    def give(self, home_id: str, pass_id: str, duration_ms: int, now_ms: int) -> None:
        """Keep the tasks of a promise held for a while. `now_ms` is what the wall clock says."""
        self.given.setdefault(home_id, {})[pass_id] = self._now_s() + duration_ms / 1000
        self._tasks[pass_id] = home_id
        self._ends_ms[pass_id] = now_ms + duration_ms
        self._first_end_ms = min(self._first_end_ms, now_ms + duration_ms)

    def take_back(self, pass_id: str) -> None:
        """Note that a pass is over; it may have run out before."""
        home_id = self._tasks.pop(pass_id, None)
        if home_id is None:
            return
        of_home = self.given[home_id]
        del of_home[pass_id], self._ends_ms[pass_id]
        if not of_home:
            del self.given[home_id]
            self.when_over()

    def are_out(self) -> bool:
        """Return whether any pass is out."""
        for home_id in list(self.given):
            self.is_held(home_id)
        return bool(self.given)

    def is_held(self, home_id: str) -> bool:
        """Return whether a promise's tasks have to stay as they are."""
        of_home = self.given.get(home_id)
        if of_home is None:
            return False
        now_s = self._now_s()
        for pass_id in [one for one, until_s in of_home.items() if until_s <= now_s]:
            self.take_back(pass_id)
        return home_id in self.given

    def are_overtaken(self, now_ms: int) -> bool:
        """Return whether a pass is out that is over by the wall clock: that was set forward."""
        if now_ms < self._first_end_ms:
            return False
        self.are_out()
        self._first_end_ms = min(self._ends_ms.values(), default=inf)
        return now_ms >= self._first_end_ms


@final
class GroupMachine(Machine):
    """The machine of a shard of a server with several groups: it respects passes, and the time of
    those who send it something.
    """

    says_when_sent = True
    passes: GivenPasses
    now_s: Callable[[], float]

    def carry_out(self, command: Command, now_ms: int) -> Step | Reply:
        """Carry out a command, or leave it for later while a pass says so.

        What another group has sent is carried out at no time below that of its sending.
        """
        kind = type(command)
        if self.passes.given and self._has_to_wait(kind, command, now_ms):
            return Step(DONE, again=command, waits=True)
        if kind in _WITH_FENCE and command.fence is not None:  # type: ignore[attr-defined]
            return self._carry_out_with_fence(command, command.fence, now_ms)  # type: ignore[attr-defined]
        if kind is c.Receive:
            now_ms = max(now_ms, command.sent_ms)  # type: ignore[attr-defined]
        return _carry_out(self, command, now_ms)

    def _carry_out_with_fence(
        self, command: Command, fence: Fence | WorkflowFence, now_ms: int
    ) -> Step | Reply:
        """Carry out a command on behalf of a task, or the question whether that is held."""
        if isinstance(fence, PassedFence | PassedWorkflowFence):
            return self._carry_out_fenced(command, fence, now_ms)
        step = _carry_out(self, command, now_ms)
        reply = step.reply if isinstance(step, Step) else step
        if isinstance(command, c.CheckFence | w.CheckWorkflowFence) and reply.code is Code.OK:
            self.passes.give(home_of(command), command.pass_id, reply.count, now_ms)
        return step

    def _carry_out_fenced(
        self, command: Command, fence: PassedFence | PassedWorkflowFence, now_ms: int
    ) -> Step | Reply:
        """Carry out a command whose fence another group has judged, within the pass."""
        if fence.is_over is None:
            return _carry_out(self, command, now_ms)
        if self.now_s() >= fence.until_s:
            fence.is_over()
            return PASS_IS_OVER
        step = _carry_out(self, command, now_ms)
        fence.is_over()
        return step

    def _has_to_wait(self, kind: type[Command], command: Command, now_ms: int) -> bool:
        if kind in ENDING and self.passes.is_held(home_of(command)):
            return True
        if kind in ENDING_ANY and self.passes.are_out():
            return True
        return kind is not c.ResumeTime and self.passes.are_overtaken(now_ms)
