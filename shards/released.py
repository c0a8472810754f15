"""Messages whose request has been answered: a few are sent immediately, many in slices.

One request may cause 10,000 messages, as the completion of a promise that many wait for. These are
sent while passes of the loop have time for them. A message that was held may have become needless
in the meantime; whether it has is judged when it is sent.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import final

from troth.core.limits import SLICE_COUNT
from troth.core.replies import ExecuteMessage, Message, TaskMessage
from troth.core.state.shard_state import ShardState

from .held import Notice
from .passes import Pass
from .turns import Outgoing


@final
class ReleasedMessages:
    """The way of released messages to `outgoing`: a few immediately, many in slices.

    `state_of` gives the state of the shard that an id lives in. `wake` sees to it that `send_more`
    is called soon.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        state_of: Callable[[str], ShardState],
        current_pass: Pass,
        wake: Callable[[], None],
    ) -> None:
        self._outgoing = outgoing
        self._state_of = state_of
        self._pass = current_pass
        self._wake = wake
        self._waiting: deque[Message | Notice] = deque()

    def send(self, messages: Sequence[Message | Notice]) -> None:
        """Send messages, now if they are few."""
        if len(messages) > SLICE_COUNT:
            self._waiting.extend(messages)
            self._wake()
            return
        for message in messages:
            self._send_if_wanted(message)

    @property
    def has_more(self) -> bool:
        """Return whether messages wait for a pass with time for them."""
        return bool(self._waiting)

    def send_more(self) -> None:
        """Send what waits, at least a slice, as long as there is time."""
        waiting = self._waiting
        if not waiting:
            return
        self._pass.begin_own()
        while waiting:
            for _ in range(min(SLICE_COUNT, len(waiting))):
                self._send_if_wanted(waiting.popleft())
            if not self._pass.has_time_for_own():
                break
        self._pass.end_own()

    def _send_if_wanted(self, message: Message | Notice) -> None:
        """Send a message that was held, unless its task was claimed, ended or given out since."""
        if isinstance(message, TaskMessage):
            task = message.task
            current = self._state_of(task.root_id).tasks.get(task.id)
            if current is not None and current.sending and current.counter == task.counter:
                self._outgoing.send(message)
        elif isinstance(message, ExecuteMessage):
            workflow = self._state_of(message.id).workflows.get(message.id)
            if workflow is not None and workflow.sending and workflow.version == message.version:
                self._outgoing.send(message)
        elif isinstance(message, Notice):
            message.call()
        else:
            self._outgoing.send(message)
