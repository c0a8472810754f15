"""Routing of messages: those of executions go to placement, all others to delivery."""

from typing import Final, final

from troth.core.catalog import EXECUTION_PREFIX
from troth.core.grammar import task_ids
from troth.core.replies import Message, TaskMessage

from .turns import Outgoing

_EXECUTIONS: Final = task_ids.invoke_id(EXECUTION_PREFIX)
"""What the ids of executions' invoke tasks begin with."""


def is_of_execution(task_id: str) -> bool:
    """Return whether a task is an execution's."""
    return task_id.startswith(_EXECUTIONS)


@final
class OutgoingRoutes:
    """Hands each message to placement or to delivery."""

    def __init__(self, delivery: Outgoing, placement: Outgoing) -> None:
        self._delivery = delivery
        self._placement = placement

    def send(self, message: Message) -> None:
        """See Outgoing."""
        if isinstance(message, TaskMessage):
            self._of(message.task.id).send(message)
        else:
            self._delivery.send(message)

    def withdraw(self, task_id: str) -> None:
        """See Outgoing."""
        self._of(task_id).withdraw(task_id)

    def finished(self, promise_ids: list[str]) -> None:
        """See Outgoing. Only executions are told about."""
        self._placement.finished(promise_ids)

    def _of(self, task_id: str) -> Outgoing:
        return self._placement if is_of_execution(task_id) else self._delivery
