"""Who waits for a promise: callbacks, subscriptions, workflow tasks that await it, listeners."""

from troth.core.model import NOTIFY
from troth.core.state.shard_state import ShardState

from .rows import SeenWaiter
from .shown_tasks import receiver_text


def waiters_of(state: ShardState, promise_id: str) -> list[SeenWaiter]:
    """Return who waits for a pending promise, in the order of registration for each kind."""
    found = [
        SeenWaiter(
            "subscription" if one.kind is NOTIFY else "callback",
            one.id,
            None if one.kind is NOTIFY else one.root_id,
            receiver_text(one.receiver),
            one.timeout,
            one.created_on,
        )
        for one in state.callbacks.get(promise_id, {}).values()
    ]
    found += [SeenWaiter("await", one, one, "") for one in state.awaits.waiters_of(promise_id)]
    found += [
        SeenWaiter("listener", one, None, one) for one in state.listeners.waiters_of(promise_id)
    ]
    return found
