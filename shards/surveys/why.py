"""Why a promise is still pending: from it down to the deepest cause.

A promise waits for what its own task waits for (`causes.py`), or for other promises: those that its
workflow task awaits, or those whose callbacks resume it. They are followed, at most
`PROMISES_LIMIT_COUNT` of them, and of all causes that are found the one is told that is least
likely to pass without help (`RANK`). A promise without a task of its own, made while the work on
its parent went on, is part of that work, so it waits for whatever the parent's task waits for.
"""

from typing import Final, final

from troth.core.lineage import possible_parents
from troth.core.model import PENDING, Promise
from troth.core.state.shard_state import ShardState
from troth.shards.shards import Shards

from .causes import Causes, LocalCause
from .pace import Pace
from .rows import RANK, Cause, Due, FarPromises, Reason, Why, WhyLink

PROMISES_LIMIT_COUNT: Final = 200
"""So many promises are looked at for one answer."""
AWAITED_SHOWN_COUNT: Final = 20
AWAITED_LIMIT_COUNT: Final = 100
"""Of so many awaited promises of one promise the causes are looked for."""
PARENTS_LIMIT_COUNT: Final = 20

AWAITS: Final = "awaits"
PART_OF: Final = "part of"


class _Found:
    """The best cause so far, and the way to it."""

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.links: tuple[WhyLink, ...] = ()

    def offer(self, cause: Cause, links: tuple[WhyLink, ...]) -> None:
        """Take a cause, if it is a better one."""
        if self.cause is None or RANK[cause.reason] < RANK[self.cause.reason]:
            self.cause, self.links = cause, links


@final
class WhyPending:
    """One answer. Only ids that begin with `id_prefix` are shown and followed."""

    def __init__(
        self,
        shards: Shards,
        causes: Causes,
        id_prefix: str,
        now_ms: int,
        far: FarPromises | None = None,
    ) -> None:
        self._shards = shards
        self._far = far
        self._causes = causes
        self._id_prefix = id_prefix
        self._now_ms = now_ms
        self._states = shards.states()
        self._pace = Pace()

    async def explain(self, promise: Promise) -> Why:
        """Return why a promise has not completed."""
        if promise.state is not PENDING:
            cause = Cause(promise.id, Reason.COMPLETED, since=promise.completed_on)
            return Why(promise, (), cause, (), 0, None)
        found = _Found()
        waiting: list[tuple[Promise, tuple[WhyLink, ...]]] = [(promise, ())]
        seen = {promise.id}
        awaited: tuple[str, ...] = ()
        has_circle = False
        while waiting:
            one, links = waiting.pop()
            local = self._look(one)
            if local.cause is not None:
                found.offer(*self._of_parents(one, local.cause, links))
                continue
            pending = [child for child in map(self._pending, local.awaited) if child is not None]
            if one is promise:
                awaited = tuple(child.id for child in pending)
            if not pending:
                # Its task is about to be told that the last of them has completed.
                found.offer(Cause(one.id, Reason.SENDING, since=one.created_on), links)
            for child in reversed(pending[:AWAITED_LIMIT_COUNT]):
                name = child.id
                further = (*links, WhyLink(name, AWAITS))
                if not name.startswith(self._id_prefix):
                    found.offer(Cause("", Reason.HIDDEN), links)
                elif name in seen:
                    has_circle |= any(link.id == name for link in links) or name == promise.id
                elif len(seen) >= PROMISES_LIMIT_COUNT:
                    found.offer(Cause(name, Reason.TOO_MANY), further)
                else:
                    seen.add(name)
                    waiting.append((child, further))
            await self._pace.rest()
        cause = found.cause or Cause(promise.id, Reason.CIRCLE if has_circle else Reason.SENDING)
        shown = tuple(name for name in awaited if name.startswith(self._id_prefix))
        next_due = self._next(promise, cause, found.links)
        return Why(promise, found.links, cause, shown[:AWAITED_SHOWN_COUNT], len(awaited), next_due)

    def _state(self, promise_id: str) -> ShardState:
        return self._shards.state_of(promise_id)

    def _known(self, promise_id: str) -> Promise | None:
        """Return a promise that is in memory, here or in another group."""
        if self._shards.is_near(promise_id):
            return self._state(promise_id).promises.get(promise_id)
        found = None if self._far is None else self._far.find(promise_id)
        return None if found is None else found.promise

    def _pending(self, promise_id: str) -> Promise | None:
        """Return a pending promise; None if it is not known as one."""
        promise = self._known(promise_id)
        if promise is None or promise.state is not PENDING or promise.timeout <= self._now_ms:
            return None
        return promise

    def _own_cause(self, promise: Promise) -> LocalCause:
        """Return what a promise's own tasks say."""
        if self._shards.is_near(promise.id):
            return self._causes.look(self._state(promise.id), promise, self._now_ms)
        found = None if self._far is None else self._far.find(promise.id)
        if found is None or (found.cause is None and not found.awaited):
            return LocalCause(Cause(promise.id, Reason.SENDING, since=promise.created_on))
        return LocalCause(found.cause, found.awaited)

    def _look(self, promise: Promise) -> LocalCause:
        local = self._own_cause(promise)
        if local.cause is None or local.cause.reason is not Reason.NO_TASK:
            return local
        resumed_by = self._resumed_by(promise.id)
        return LocalCause(awaited=resumed_by) if resumed_by else local

    def _resumed_by(self, root_id: str) -> tuple[str, ...]:
        """Return the promises whose completion resumes a root; they may be in any shard."""
        near = [name for state in self._states for name in state.resuming.waiters_of(root_id)]
        return (*near, *(() if self._far is None else self._far.resumed_by(root_id)))

    def _of_parents(
        self, promise: Promise, cause: Cause, links: tuple[WhyLink, ...]
    ) -> tuple[Cause, tuple[WhyLink, ...]]:
        """Return the cause of the parent's work, where a promise without a task is part of it."""
        own = cause, links
        for _ in range(PARENTS_LIMIT_COUNT):
            if cause.reason is not Reason.NO_TASK:
                return cause, links
            parent = self._parent(promise)
            if parent is None:
                return own
            local = self._own_cause(parent)
            if local.cause is None:
                return own  # the parent waits, perhaps for this one
            promise, cause = parent, local.cause
            links = (*links, WhyLink(parent.id, PART_OF))
        return own

    def _parent(self, promise: Promise) -> Promise | None:
        for name in possible_parents(promise.id, promise.tags):
            parent = self._known(name)
            if parent is not None:
                is_shown = name.startswith(self._id_prefix)
                return self._pending(name) if is_shown else None
        return None

    def _next(self, promise: Promise, cause: Cause, links: tuple[WhyLink, ...]) -> Due:
        """Return the deadline that comes first, of the promise, those on the way and the cause."""
        dues = [Due(promise.timeout, "timeout", promise.id, promise.id)]
        for link in links:
            one = self._pending(link.id)
            if one is not None:
                dues.append(Due(one.timeout, "timeout", one.id, one.id))
        if cause.at is not None and cause.what != "timeout":
            about = cause.promise_id if cause.task is None else cause.task.id
            dues.append(Due(cause.at, cause.what, about, cause.promise_id))
        return min(dues, key=lambda due: due.place)
