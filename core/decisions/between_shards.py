"""What messages between shards do: each is applied once, and forgotten when that is durable."""

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.commands import Acknowledge, Receive
from troth.core.deciding import DONE, DecisionContext
from troth.core.replies import Reply


def receive(context: DecisionContext, command: Receive, now_ms: int) -> Reply:
    """Apply another shard's message, unless it was applied before."""
    applied = context.state.inbox.get(command.source, 0)
    assert command.sequence <= applied + 1, "messages of a shard come in order, none left out"
    if command.sequence > applied:
        serial = 0
        message = command.message
        # What the message is about is settled first, and afterwards if it is new.
        match message:
            case r.PromiseMessage() | w.WorkflowMessage():
                context.promise(message.id, now_ms)
                serial = context.next_serial()
            case w.AwaitMessage():
                context.promise(message.awaited, now_ms)
            case w.WakeMessage():
                context.promise(message.awaiter, now_ms)
        context.emit(r.MessageReceived(command.source, command.sequence, message, serial, now_ms))
        if isinstance(message, w.WorkflowMessage):
            context.promise(message.id, now_ms)
    # Last, so that a message whose step failed is not acknowledged by the next step.
    context.received = (command.source, command.sequence)
    return DONE


def acknowledge(context: DecisionContext, command: Acknowledge, now_ms: int) -> Reply:
    """Forget what the target shard has durably applied."""
    first = context.state.outbox.first(command.target)
    if first is not None and first <= command.sequence:
        context.emit(r.MessagesAcknowledged(command.target, command.sequence))
    return DONE
