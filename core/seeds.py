"""What a promise's tags say about its invoke task: who gets it, and when it may first be sent."""

from troth.core.grammar.addresses import route

from . import records as r
from .limits import INTEGER_MAX
from .model import TAG_DELAY, TAG_INVOKE


def seed_of(tags: dict[str, str] | None) -> r.TaskSeed | None:
    """The invoke task that a promise with these tags gets; None if they name no receiver."""
    if tags is None or TAG_INVOKE not in tags:
        return None
    receiver = route(tags[TAG_INVOKE])
    if receiver is None:
        return None
    return r.TaskSeed(receiver, not_before=_delay(tags))


def _delay(tags: dict[str, str]) -> int | None:
    """The time before which the task is not sent; a malformed tag is ignored (rest.md 14.2)."""
    text = tags.get(TAG_DELAY, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return min(int(text), INTEGER_MAX)
