"""Reading the tags of what a start has loaded, in slices and after it: see `LateTagIndex`."""

from troth.core.limits import TAGS_SLICE_COUNT
from troth.core.tables.tag_index import LateTagIndex

from .shard_state import ShardState


def read_tags_later(state: ShardState) -> None:
    """Begin, with a shard whose promises are not indexed by their tags yet."""
    if state.promise_index:
        state.tag_index = LateTagIndex(state.promises, state.promise_index)


def read_tags(state: ShardState, count: int = TAGS_SLICE_COUNT) -> bool:
    """Read the tags of a slice of those promises; return whether any are left.

    Raises RowUnreadable.
    """
    index = state.tag_index
    if not isinstance(index, LateTagIndex):
        return False
    is_more = index.read_some(count)
    if not is_more:
        state.tag_index = index.whole()
    return is_more
