"""Messages that were held until an answer was written: those that are wanted still, in slices."""

from dataclasses import dataclass, field

from troth.core.limits import SLICE_COUNT
from troth.core.model import INVOKE, Promise, PromiseState, Task
from troth.core.replies import ExecuteMessage, Message, TaskMessage, UnblockMessage
from troth.core.state.shard_state import ShardState
from troth.core.workflows import WorkflowState, WorkflowTask
from troth.shards.held import Notice
from troth.shards.released import ReleasedMessages

FAR_MS = 2**53


class Clock:
    """A pass with time for so many looks."""

    def __init__(self) -> None:
        self.looks_left_count = 10**9
        self.is_begun = False

    def begin_own(self) -> None:
        assert not self.is_begun
        self.is_begun = True

    def end_own(self) -> None:
        assert self.is_begun
        self.is_begun = False

    def has_time_for_own(self) -> bool:
        self.looks_left_count -= 1
        return self.looks_left_count > 0


@dataclass
class Held:
    """What was held, what of it was sent, and how often a later pass was asked for."""

    state: ShardState = field(default_factory=lambda: ShardState(0, lambda _: 0))
    sent: list[Message] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    wakes_count: int = 0

    def __post_init__(self) -> None:
        self.released = ReleasedMessages(
            self,  # type: ignore[arg-type]  # all that is used of it
            lambda _: self.state,
            self.clock,  # type: ignore[arg-type]  # its budget alone
            self._wake,
        )

    def send(self, message: Message) -> None:
        """See Outgoing."""
        self.sent.append(message)

    def _wake(self) -> None:
        self.wakes_count += 1

    def task(self, number: int) -> TaskMessage:
        """A task that is being sent."""
        name = f"t{number}"
        task = Task(name, INVOKE, name, name, "r", FAR_MS, number, 0)
        task.sending = True
        self.state.tasks[name] = task
        return TaskMessage(task.copy(), None)

    def flow(self, number: int) -> ExecuteMessage:
        """A workflow task that is being sent."""
        name = f"w{number}"
        self.state.workflows[name] = WorkflowTask(name, WorkflowState.PENDING, sending=True)
        return ExecuteMessage(name, 0, "poll://any@g")


def test_few_are_sent_at_once_if_they_are_wanted_still() -> None:
    """What was claimed, ended or given out again since is not; news of a completion always is."""
    held = Held()
    tasks = [held.task(number) for number in range(3)]
    flows = [held.flow(number) for number in range(3)]
    done = UnblockMessage(Promise("p", 1, PromiseState.RESOLVED, FAR_MS, 0), "poll://uni@g/1")
    held.state.tasks["t0"].sending = False
    del held.state.tasks["t1"]
    held.state.workflows["w0"].sending = False
    del held.state.workflows["w1"]
    called: list[bool] = []
    held.released.send([*tasks, *flows, done, Notice(lambda: called.append(True))])
    assert held.sent == [tasks[2], flows[2], done]
    assert called == [True]
    later: list[Message] = [held.task(9), held.flow(9)]
    held.state.tasks["t9"].counter += 1
    held.state.workflows["w9"].version += 1
    held.released.send(later)
    assert held.sent[3:] == []
    assert held.wakes_count == 0


def test_very_many_are_sent_in_order_as_long_as_there_is_time() -> None:
    """At least a slice in each pass, so that they come to an end."""
    held = Held()
    messages = [held.task(number) for number in range(3 * SLICE_COUNT + 1)]
    held.released.send(messages)
    assert (held.sent, held.wakes_count) == ([], 1)
    held.clock.looks_left_count = 2
    counts = []
    while held.released.has_more:
        held.released.send_more()
        counts.append(len(held.sent))
        assert not held.clock.is_begun
    assert counts == [2 * SLICE_COUNT, 3 * SLICE_COUNT, 3 * SLICE_COUNT + 1]
    assert held.sent == messages
    held.released.send_more()
    assert held.sent == messages
