"""A model of one workflow's task, for the checker of linearizability.

A lease may be lost at any time, and so may everything else happen that others bring about: the task
is woken, halted, ended with its promise. What cannot be: two claims of one version, and anything
that a holder does which is not, or no longer, the holder.

Where links break, a link asks again what was not answered. What a holder has done under its fence
may so be answered once more as it was, when it holds the task no longer (`is_again` of a command).
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace

from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.core.workflow_commands import (
    AcquireWorkflow,
    CreateWorkflow,
    EnsurePromise,
    FulfillWorkflow,
    ReleaseWorkflow,
    SettlePromise,
    SuspendWorkflow,
)
from troth.core.workflows import FULFILLED

from .linearizability import Operation

Claim = CreateWorkflow | AcquireWorkflow
Fenced = EnsurePromise | SettlePromise
Held = SuspendWorkflow | FulfillWorkflow | ReleaseWorkflow

REFUSALS = (Code.TASK_NOT_FOUND, Code.WORKFLOW_STATE, Code.WORKFLOW_VERSION)


@dataclass(frozen=True)
class Flow:
    """What is known of a task: its last claim, whether that may still hold, and its end."""

    version: int = 0
    claim: tuple[str, str | None] = ("", None)
    may_be_held: bool = False
    has_ended: bool = False
    done: frozenset[tuple[type[Command], str]] = frozenset()
    """What holders have done under their fences: with which command, to which promise."""


def is_about_workflows(command: Command) -> bool:
    """Whether the model judges a command."""
    return isinstance(command, Claim | Held) or (
        isinstance(command, Fenced) and command.fence is not None
    )


class WorkflowModel:
    """One task, by the answers to claims and to what holders ask."""

    def __init__(self, *, has_links: bool = False) -> None:
        self._has_links = has_links

    def partition(self, operation: Operation[Command, Reply]) -> Hashable:
        command = operation.input
        if isinstance(command, Fenced):
            assert command.fence is not None
            return command.fence.id
        assert isinstance(command, Claim | Held)
        return command.id

    def initial(self) -> Flow:
        return Flow()

    def equal(self, left: Flow, right: Flow) -> bool:
        return left == right

    def step(
        self,
        state: Flow,
        input: Command,  # noqa: A002
        output: Reply | None,
    ) -> tuple[bool, Flow]:
        if isinstance(input, Claim):
            return self._claim(state, input, output)
        if isinstance(input, Fenced):
            assert input.fence is not None
            return self._as_holder(state, input, input.fence.version, output)
        assert isinstance(input, Held)
        return self._as_holder(state, input, input.version, output)

    def _claim(self, state: Flow, command: Claim, output: Reply | None) -> tuple[bool, Flow]:
        claim = (command.pid, command.claim_id)
        is_current = isinstance(command, CreateWorkflow) or command.version == state.version
        claimed = replace(
            state, version=state.version + 1, claim=claim, may_be_held=True, has_ended=False
        )
        if output is None:
            return True, claimed if is_current and not state.has_ended else state
        if output.code is Code.OK:
            shown = output.workflow
            assert shown is not None
            if shown.state is FULFILLED:
                return True, replace(state, has_ended=True, may_be_held=False)
            if shown.version == state.version:
                # The same request once more, after a restart.
                return state.may_be_held and claim == state.claim, state
            return shown.version == claimed.version and is_current and not state.has_ended, claimed
        if output.code is Code.WORKFLOW_VERSION:
            return not is_current, state
        return output.code in (Code.WORKFLOW_STATE, Code.TASK_NOT_FOUND), state

    def _as_holder(
        self, state: Flow, command: Fenced | Held, version: int, output: Reply | None
    ) -> tuple[bool, Flow]:
        is_holder = version == state.version and state.may_be_held and not state.has_ended
        if output is None:
            return True, self._done(state, command) if is_holder else state
        if output.code is Code.WORKFLOW_STATE:
            return True, replace(state, may_be_held=False)
        if output.code is Code.WORKFLOW_VERSION:
            return version != state.version, state
        if output.code is Code.TASK_NOT_FOUND:
            return state.version == 0, state
        if output.code is Code.OK and self._is_answered_again(state, command, output):
            return True, state
        if output.code is Code.OK:
            return is_holder, self._done(state, command)
        return is_holder, state  # refused for another reason, or it goes on at once

    def _is_answered_again(self, state: Flow, command: Fenced | Held, output: Reply) -> bool:
        """Whether an answer may be that to what a link has asked again, which changes nothing."""
        if not self._has_links or not isinstance(command, Fenced):
            return False
        if (type(command), command.id) in state.done:
            return True
        if not isinstance(command, SettlePromise) or output.promise is None:
            return False
        return output.promise.value != command.value  # another one has settled it

    def _done(self, state: Flow, command: Fenced | Held) -> Flow:
        if isinstance(command, FulfillWorkflow):
            return replace(state, has_ended=True, may_be_held=False)
        if isinstance(command, SuspendWorkflow | ReleaseWorkflow):
            return replace(state, may_be_held=False)
        if isinstance(command, Fenced):
            return replace(state, done=state.done | {(type(command), command.id)})
        return state
