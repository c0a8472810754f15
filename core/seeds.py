"""What a promise's tags say about its task: its kind, its receiver, and when it may first be sent.

The tags decide, whichever API made the promise. A target makes a workflow task, and then a receiver
of invoke tasks is ignored (envelope.md 11.4).
"""

from functools import lru_cache

from troth.core.grammar.addresses import route

from . import records as r
from .limits import INTEGER_MAX
from .model import TAG_DELAY, TAG_INVOKE, TAG_TARGET
from .workflows import WorkflowSeed


@lru_cache(maxsize=1_024)
def shared_receiver(receiver: str) -> str:
    """Return one and the same text for receivers that are equal and came recently.

    Many tasks may wait for the same.
    """
    return receiver


def seed_of(tags: dict[str, str] | None) -> r.TaskSeed | None:
    """Return the invoke task for a promise with these tags, or None without a receiver."""
    if tags is None or TAG_INVOKE not in tags or TAG_TARGET in tags:
        return None
    receiver = route(tags[TAG_INVOKE])
    if receiver is None:
        return None
    if isinstance(receiver, str):
        receiver = shared_receiver(receiver)
    return r.TaskSeed(receiver, not_before=_delay(tags))


def workflow_seed_of(tags: dict[str, str] | None, timeout: int) -> WorkflowSeed | None:
    """Return the workflow task that a promise with these tags gets, or None if they name no target.

    A delay that is not before the promise's timeout is ignored, as a malformed one is.
    """
    if tags is None or TAG_TARGET not in tags:
        return None
    not_before = _delay(tags)
    if not_before is not None and not_before >= timeout:
        not_before = None
    return _PLAIN if not_before is None else WorkflowSeed(not_before)


_PLAIN = WorkflowSeed()


def _delay(tags: dict[str, str]) -> int | None:
    """Return the earliest time to send the task; ignore a malformed tag (rest.md 14.2)."""
    text = tags.get(TAG_DELAY, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return min(int(text), INTEGER_MAX)
