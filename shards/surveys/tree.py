"""The tree of calls below a promise: which promises its work has created, and how they stand.

`troth.core.lineage` says which promise is below which. Those that may be below are found by the
beginnings of their ids and by the tags that libraries write (`shared_tags`), in memory and not. The
work is bounded: a tree with more than `limit_count` promises, or that takes too long to gather, is
cut.
"""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, final

from troth.core.grammar.patterns import Pattern
from troth.core.lifecycles import FINAL_STATES
from troth.core.limits import INTEGER_MAX
from troth.core.lineage import SEPARATORS, parents_of, shared_tags, unknown_parents
from troth.core.model import PENDING, Promise, replace
from troth.core.state.cold import Query
from troth.core.state.late_tags import read_tags
from troth.core.state.shard_state import ShardState
from troth.shards.shards import Shards

from . import shown_tasks
from .causes import Causes
from .id_texts import IdTexts
from .pace import Pace
from .rows import Cause, FarPromises, TaskRow, Tree, TreeCall, effective_state

CANDIDATES_LIMIT_COUNT: Final = 10_000
"""How many promises are looked at that may be below the root."""
COLD_LOOK_COUNT: Final = 100
"""How many promises that are not in memory are looked at between two rests."""

_NUMBERS: Final = re.compile(r"([0-9]+)")


@final
class Trees:
    """Gathers one tree. Only promises whose ids begin with `id_prefix` are in it."""

    def __init__(
        self,
        shards: Shards,
        texts: Sequence[IdTexts],
        causes: Causes,
        id_prefix: str,
        now_ms: int,
        far: FarPromises | None = None,
    ) -> None:
        self._shards = shards
        self._far = far
        self._states = shards.states()
        self._texts = texts
        self._causes = causes
        self._id_prefix = id_prefix
        self._now_ms = now_ms
        self._pace = Pace()

    async def tree(self, root: Promise, limit_count: int, depth_count: int | None) -> Tree:
        """Return the root and what is below it: parents first, children in order of creation."""
        found = {root.id: root}
        is_cut = self._far is not None and self._far.below(root).is_cut
        async with aclosing(self._candidates(root)) as candidates:
            async for promise in candidates:
                found.setdefault(promise.id, promise)
                if len(found) > CANDIDATES_LIMIT_COUNT or self._pace.is_spent:
                    is_cut = True
                    break
        elsewhere = {name async for name in self._elsewhere(root, found)}
        parents = parents_of(root.id, {name: one.tags for name, one in found.items()}, elsewhere)
        await self._pace.rest()
        calls: list[TreeCall] = []
        for promise, depth in _in_order(root.id, found, parents, depth_count):
            if len(calls) == limit_count:
                is_cut = True
                break
            calls.append(self._call(promise, parents.get(promise.id), depth))
            await self._pace.rest()
        return Tree(tuple(calls), is_cut)

    def _call(self, promise: Promise, parent_id: str | None, depth: int) -> TreeCall:
        state = effective_state(promise, self._now_ms)
        if state is not promise.state:
            promise = replace(promise, state=state, completed_on=promise.timeout)
        if promise.state is not PENDING:
            return TreeCall(promise, parent_id, depth)
        if not self._shards.is_near(promise.id):
            found = None if self._far is None else self._far.find(promise.id)
            if found is None:
                return TreeCall(promise, parent_id, depth)
            return TreeCall(promise, parent_id, depth, found.tasks, found.cause)
        here = self._shards.state_of(promise.id)
        if promise.id not in here.promises:
            return TreeCall(promise, parent_id, depth)
        return TreeCall(
            promise, parent_id, depth, tasks_of_promise(here, promise), self._cause(here, promise)
        )

    def _cause(self, state: ShardState, promise: Promise) -> Cause | None:
        return self._causes.look(state, promise, self._now_ms).cause

    async def _elsewhere(
        self, root: Promise, found: Mapping[str, Promise]
    ) -> AsyncGenerator[str, None]:
        """Yield promises that are not in the tree, and which something belongs to that was found.

        Where libraries made the promises there are none.
        """
        looked: set[str] = set()
        for promise in found.values():
            if promise is root:
                continue
            for name in unknown_parents(promise.id, promise.tags, found):
                if name in looked:
                    continue
                looked.add(name)
                if not self._shards.is_near(name):
                    if self._far is not None and self._far.exists(name):
                        yield name
                    continue
                here = self._shards.state_of(name)
                if name in here.promises or here.find_cold_promise(name) is not None:
                    yield name
                await self._pace.rest()

    async def _candidates(self, root: Promise) -> AsyncGenerator[Promise, None]:
        """Yield what may be below the root, some perhaps twice; what is found fastest first."""
        async with aclosing(self.near_candidates(root)) as near:
            async for promise in near:
                yield promise
        if self._far is not None:
            for promise in self._far.below(root).promises:
                yield promise

    async def near_candidates(self, root: Promise) -> AsyncGenerator[Promise, None]:
        """Do as `_candidates`, in this group."""
        tags = shared_tags(root.id, root.tags)
        for state in self._states:
            for name, value in tags:
                async with aclosing(self._tagged(state, {name: value})) as tagged:
                    async for promise in tagged:
                        yield promise
        for state, texts in zip(self._states, self._texts, strict=True):
            async with aclosing(self._beginning(state, texts, root.id)) as beginning:
                async for promise in beginning:
                    yield promise

    async def _beginning(
        self, state: ShardState, texts: IdTexts, root_id: str
    ) -> AsyncGenerator[Promise, None]:
        for separator in SEPARATORS:
            after: bytes | None = b""
            while after is not None:
                promises, after = state.cold.beginning_with(
                    root_id + separator, after, COLD_LOOK_COUNT
                )
                for promise in promises:
                    if self._is_shown(state, promise):
                        yield promise
                await self._pace.rest()
        for names in texts.beginning_with(state, root_id):
            for name in names:
                known = state.promises.get(name)
                if (
                    known is not None
                    and name[len(root_id) : len(root_id) + 1] in SEPARATORS
                    and name.startswith(self._id_prefix)
                ):
                    yield known
            await self._pace.rest()

    async def _tagged(
        self, state: ShardState, tags: Mapping[str, str]
    ) -> AsyncGenerator[Promise, None]:
        wanted = dict(tags)
        while read_tags(state):  # soon after a start not all are read
            await self._pace.rest()
        for name in state.index_for(wanted).ids():
            promise = state.promises.get(name)
            if promise is not None and promise.id.startswith(self._id_prefix):
                yield promise
        before: int | None = INTEGER_MAX
        while before is not None:
            query = Query(
                Pattern("*", self._id_prefix),
                FINAL_STATES,
                wanted,
                COLD_LOOK_COUNT,
                before,
                COLD_LOOK_COUNT,
            )
            page = state.cold.search(query)
            for promise in page.promises:
                if self._is_shown(state, promise):
                    yield promise
            before = page.next_before
            await self._pace.rest()

    def _is_shown(self, state: ShardState, promise: Promise) -> bool:
        """Return whether a promise from the checkpoint is still there, and may be shown."""
        return (
            promise.id.startswith(self._id_prefix)
            and promise.id not in state.hidden_promises
            and promise.id not in state.promises
        )


def tasks_of_promise(state: ShardState, promise: Promise) -> tuple[TaskRow, ...]:
    """Return the unfinished tasks of a pending promise."""
    root = state.roots.get(promise.id)
    rows = [] if root is None else [shown_tasks.of_task(state, one) for one in root.tasks]
    workflow = state.workflows.get(promise.id)
    if workflow is not None:
        rows.append(shown_tasks.of_workflow(state, workflow, promise))
    return tuple(rows)


def _in_order(
    root_id: str,
    found: Mapping[str, Promise],
    parents: Mapping[str, str],
    depth_count: int | None,
) -> list[tuple[Promise, int]]:
    """Return the promises of a tree with their levels, down to a level."""
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    rows = []
    waiting = [(root_id, 0)]
    while waiting:
        promise_id, depth = waiting.pop()
        rows.append((found[promise_id], depth))
        if depth_count is None or depth < depth_count:
            below = sorted(children.get(promise_id, ()), key=lambda child: _place(found[child]))
            waiting += [(child, depth + 1) for child in reversed(below)]
    return rows


def _place(promise: Promise) -> tuple[int, list[tuple[int, str]]]:
    # Ids like `a.10` come after `a.9` when both were created in the same millisecond.
    parts = _NUMBERS.split(promise.id)
    natural = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return promise.created_on, natural
