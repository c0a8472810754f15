"""Carrying on with completions, a slice at a time (see `state/completions.py`)."""

from itertools import islice

from troth.core.continuations import ContinueCompletions
from troth.core.deciding import DecisionContext
from troth.core.replies import Reply


def continue_completions(
    context: DecisionContext, command: ContinueCompletions, now_ms: int
) -> Reply:
    """Carry out a slice of the first of the completions that are under way."""
    ids = command.ids
    carry_on(context, ids[0])
    if ids[0] not in context.state.completions:
        ids = ids[1:]
    context.again = ContinueCompletions(ids, command.reply, command.then) if ids else command.then
    return command.reply


def carry_on(context: DecisionContext, promise_id: str) -> None:
    """Carry out a slice of a completion, if it is still under way."""
    state = context.state
    if promise_id not in state.completions:
        return
    left_count = context.options.completion_slice_count
    root = state.roots.get(promise_id)
    tasks = [] if root is None else list(islice(root.tasks, left_count))
    left_count -= len(tasks)
    callbacks = list(islice(state.callbacks.get(promise_id, ()), left_count))
    left_count -= len(callbacks)
    awaiters = state.awaits.first(promise_id, left_count)
    left_count -= len(awaiters)
    context.continue_completion(
        promise_id,
        tasks=tasks,
        callbacks=callbacks,
        awaiters=awaiters,
        listeners=state.listeners.first(promise_id, left_count),
    )
