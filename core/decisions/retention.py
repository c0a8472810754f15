"""Deleting what retention rules reach, in slices, and counting what they would reach.

A slice looks at a bounded number of candidates and emits one record for those that go. What has to
stay although its time has come (`deletions.py`) is looked at again later.

A promise that is still in the shard's memory and will leave it with the next checkpoint is deleted
after that; `retention_rules.py` says how candidates are found.
"""

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice

from troth.core.codes import Code
from troth.core.commands import SLICE_START, CountRetained, Retain, Slice
from troth.core.deciding import DONE, DecisionContext
from troth.core.limits import RETENTION_RECHECK_MS
from troth.core.model import PENDING, Promise, PromiseState
from troth.core.replies import Reply, Retained
from troth.core.retention_rules import BEGINNING, Retention, RetentionRule, Walk, due_rule
from troth.core.state.activity import Deleter
from troth.core.state.shard_state import ShardState

from .deletions import Lineage, delete, is_in_use


def retain(context: DecisionContext, command: Retain, now_ms: int) -> Reply:
    """Delete the next promises whose time has come, at most `limit_count` of them."""
    retention = context.state.retention
    if retention is None:
        return DONE
    gone: dict[str, None] = {}
    counts = [0] * len(retention.rules)
    waiting_count = 0
    lineage = _lineage(context, retention.rules, now_ms)
    has_more = False
    candidates = _candidates(context.state, retention, now_ms)
    for looked_count, promise in enumerate(candidates, start=1):
        place = None if promise is None else due_rule(retention.rules, promise, now_ms)
        if promise is not None and place is not None and promise.id not in gone:
            if is_in_use(context, promise.id) or lineage.keeps(promise):
                retention.look_again(promise, now_ms + RETENTION_RECHECK_MS)
                waiting_count += 1
            else:
                gone[promise.id] = None
                counts[place] += 1
        if len(gone) == command.limit_count or looked_count == command.scan_count:
            has_more = True
            break
    # What reaches the cold store behind a sweep must be met by other means from now on. A clock
    # that is set back takes no sweep with it.
    retention.looked_ms = max(retention.looked_ms, now_ms)
    if gone:
        delete(context, gone, Deleter.RETENTION, now_ms)
    following = SLICE_START if has_more else None
    return Reply(Code.OK, retained=Retained(tuple(counts), waiting_count, following))


def _candidates(state: ShardState, retention: Retention, now_ms: int) -> Iterator[Promise | None]:
    """Yield completed promises that may be due, each noted as looked at; None for one now gone."""
    heap = retention.heap
    while heap and heap[0][0] <= now_ms:
        _, serial, promise_id = heapq.heappop(heap)
        yield _completed(state, promise_id, serial)
    for walk in retention.walks:
        yield from _go_on(state, walk, now_ms)


_PAGE_COUNT = 50


def _go_on(state: ShardState, walk: Walk, now_ms: int) -> Iterator[Promise | None]:
    while True:
        page = state.cold.ended(walk.state, walk.after, now_ms - walk.age_ms, _PAGE_COUNT)
        for entry in page:
            walk.after = entry.place
            yield _completed(state, entry.id, entry.place[1])
        if len(page) < _PAGE_COUNT:
            return


def _completed(state: ShardState, promise_id: str, serial: int) -> Promise | None:
    """Return the promise that was noted under an id, unless it has gone and the id is another's."""
    promise = state.find_promise(promise_id)
    if promise is None or promise.serial != serial:
        return None
    assert promise.state is not PromiseState.PENDING, "only completed promises are noted"
    return promise


def _lineage(context: DecisionContext, rules: tuple[RetentionRule, ...], now_ms: int) -> Lineage:
    """Return which promises stay because a rule does not reach their origin, or it has to stay."""

    def may_go(origin: Promise) -> bool:
        return (
            origin.state is not PENDING
            and due_rule(rules, origin, now_ms) is not None
            and origin.id not in context.neighbor(origin.id).state.roots
            and not context.is_awaited(origin.id)
        )

    return Lineage(context, may_go)


def reached(state: ShardState, command: Retain | CountRetained, now_ms: int) -> list[Promise]:
    """Return the completed promises that a command of retention would look at now."""
    found: dict[str, Promise] = {}
    if isinstance(command, Retain):
        rules = () if state.retention is None else state.retention.rules
        looked: Iterable[Promise | None] = _first(state, command.scan_count, now_ms)
    else:
        rules = command.rules
        looked = _counted(state, command, now_ms)
    for promise in looked:
        if promise is not None and due_rule(rules, promise, now_ms) is not None:
            found[promise.id] = promise
    return list(found.values())


def _first(state: ShardState, limit_count: int, now_ms: int) -> list[Promise | None]:
    """Return what `_candidates` is about to yield, without noting it as looked at."""
    retention = state.retention
    if retention is None:
        return []
    due = (one for one in retention.heap if one[0] <= now_ms)
    found = [_completed(state, one[2], one[1]) for one in heapq.nsmallest(limit_count, due)]
    for walk in retention.walks:
        left_count = limit_count - len(found)
        if left_count <= 0:
            break
        page = state.cold.ended(walk.state, walk.after, now_ms - walk.age_ms, left_count)
        found += [_completed(state, entry.id, entry.place[1]) for entry in page]
    return found


def _counted(state: ShardState, command: CountRetained, now_ms: int) -> Iterator[Promise | None]:
    following: Slice | None = command.start
    looked_count = 0
    while following is not None and looked_count < command.scan_count:
        promises, following = _part(state, command, following, now_ms)
        looked_count += len(promises)
        yield from promises


# Counting


def count_retained(context: DecisionContext, command: CountRetained, now_ms: int) -> Reply:
    """Count what rules would delete now: the slice that begins at `command.start`.

    A slice goes on until it has looked at `scan_count` promises, so a small shard is counted in one
    moment. In a large one a checkpoint may move promises between two slices, which then may not be
    counted: the count is of what was there all the time.
    """
    counts = [0] * len(command.rules)
    waiting_count = looked_count = 0
    following: Slice | None = command.start
    while following is not None and looked_count < command.scan_count:
        part, part_count = _count_part(context, command, following, now_ms)
        counts = [one + other for one, other in zip(counts, part.deleted_counts, strict=True)]
        waiting_count += part.waiting_count
        looked_count += part_count
        following = part.following
    return Reply(Code.OK, retained=Retained(tuple(counts), waiting_count, following))


def _count_part(
    context: DecisionContext, command: CountRetained, start: Slice, now_ms: int
) -> tuple[Retained, int]:
    """Count from `start` on in one walk, or in memory; the second is how many were looked at."""
    rules = command.rules
    walks, (walk, _, _) = _walks(rules), start
    promises, following = _part(context.state, command, start, now_ms)
    counts = [0] * len(rules)
    waiting_count = 0
    lineage = _lineage(context, rules, now_ms)
    for promise in promises:
        rule = None if promise is None else due_rule(rules, promise, now_ms)
        # Several walks meet a promise; it counts for the rule that comes first.
        if promise is None or rule is None or (walk < len(walks) and rule != walks[walk][0]):
            continue
        if is_in_use(context, promise.id) or lineage.keeps(promise):
            waiting_count += 1
        else:
            counts[rule] += 1
    return Retained(tuple(counts), waiting_count, following), len(promises)


def _walks(rules: tuple[RetentionRule, ...]) -> list[tuple[int, PromiseState]]:
    return [(place, one) for place, rule in enumerate(rules) for one in rule.states]


def _part(
    state: ShardState, command: CountRetained, start: Slice, now_ms: int
) -> tuple[list[Promise | None], Slice | None]:
    """Return the promises from `start` on in one walk, or in memory, and where to go on."""
    walks = _walks(command.rules)
    walk, first, second = start
    if walk < len(walks):
        place, one = walks[walk]
        until_ms = now_ms - command.rules[place].age_ms
        page = state.cold.ended(one, (first, second), until_ms, command.scan_count)
        is_full = len(page) == command.scan_count
        following = (walk, *page[-1].place) if is_full else (walk + 1, *BEGINNING)
        return [
            None if entry.id in state.promises else _completed(state, entry.id, entry.place[1])
            for entry in page
        ], following
    first = max(first, 0)
    stop = first + command.scan_count
    rest = (walk, stop, 0) if stop < len(state.completed) else None
    return [state.promises[one] for one in islice(state.completed, first, stop)], rest
