"""What is known of promises of other groups for one answer about tasks (`rows.FarPromises`).

Who looks does not wait. So an answer is made with what is known; what was missing is asked of its
groups, all together, and the answer is made again, until nothing is missing. If a group is away
there is no answer.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, final

from msgspec import Struct

from troth.core.model import Promise
from troth.persistence.placement import ShardOf
from troth.shards.mesh.calls import ProcessCall, ProcessCalls
from troth.shards.surveys.rows import FarBelow, FarPromise, FarPromises
from troth.shards.surveys.surveys import Surveys

from .asking import ask_each

ROUNDS_COUNT: Final = 40
"""How often an answer is made, at most: each goes one promise further on a way through groups."""

Answered = TypeVar("Answered")


class FarAsked(Struct, frozen=True, array_like=True):
    """What is asked of a group: promises, what resumes roots, what exists, what is below roots."""

    ids: list[str]
    roots: list[str]
    names: list[str]
    below: list[Promise]
    id_prefix: str


class FarFound(Struct, frozen=True, array_like=True):
    """What it knows, each in the order in which it was asked."""

    promises: list[FarPromise | None]
    resumed_by: list[tuple[str, ...]]
    existing: list[bool]
    below: list[FarBelow]


FAR: Final = ProcessCall("promises.far", FarAsked, FarFound)


class _WantedOfGroup:
    """What is to be asked of one group."""

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.names: dict[str, None] = {}


@final
class _KnownFar:
    """What is known for one answer, so far."""

    def __init__(self, every: "AllPromises", id_prefix: str) -> None:
        self._every = every
        self._id_prefix = id_prefix
        self._promises: dict[str, FarPromise | None] = {}
        self._existing: dict[str, bool] = {}
        self._resumed_by: dict[str, tuple[str, ...]] = {}
        self._below: dict[str, FarBelow] = {}
        self._wanted: dict[int, _WantedOfGroup] = {}
        self._roots: dict[str, None] = {}
        self._below_roots: dict[str, Promise] = {}

    def find(self, promise_id: str) -> FarPromise | None:
        if promise_id not in self._promises:
            self._of(promise_id).ids[promise_id] = None
        return self._promises.get(promise_id)

    def exists(self, promise_id: str) -> bool:
        if promise_id not in self._existing:
            self._of(promise_id).names[promise_id] = None
        return self._existing.get(promise_id, False)

    def resumed_by(self, root_id: str) -> tuple[str, ...]:
        if root_id not in self._resumed_by:
            self._roots[root_id] = None
        return self._resumed_by.get(root_id, ())

    def below(self, root: Promise) -> FarBelow:
        if root.id not in self._below:
            self._below_roots[root.id] = root
        return self._below.get(root.id, FarBelow())

    def _of(self, promise_id: str) -> _WantedOfGroup:
        return self._wanted.setdefault(self._every.home(promise_id), _WantedOfGroup())

    async def fetch(self) -> bool:
        """Ask for what was missing; return whether there was anything. Raises ShardsError."""
        wanted, self._wanted = self._wanted, {}
        roots, self._roots = list(self._roots), {}
        below, self._below_roots = list(self._below_roots.values()), {}
        processes = self._every.others if roots or below else tuple(wanted)
        if not processes:
            return False
        asked = {
            process: FarAsked(
                list(wanted[process].ids) if process in wanted else [],
                roots,
                list(wanted[process].names) if process in wanted else [],
                below,
                self._id_prefix,
            )
            for process in processes
        }
        resumed_by: dict[str, list[str]] = {one: [] for one in roots}
        found_below = dict.fromkeys((one.id for one in below), FarBelow())
        for process, found in (await self._every.ask(asked)).items():
            question = asked[process]
            self._promises.update(zip(question.ids, found.promises, strict=True))
            self._existing.update(zip(question.names, found.existing, strict=True))
            for root_id, names in zip(roots, found.resumed_by, strict=True):
                resumed_by[root_id].extend(names)
            for root, some in zip(below, found.below, strict=True):
                before = found_below[root.id]
                found_below[root.id] = FarBelow(
                    before.promises + some.promises, before.is_cut or some.is_cut
                )
        self._resumed_by.update({one: tuple(names) for one, names in resumed_by.items()})
        self._below.update(found_below)
        return True


@final
class AllPromises:
    """Asks other groups about promises, and answers what they ask."""

    def __init__(
        self, calls: ProcessCalls, groups: tuple[int, ...], shard_of: ShardOf, own: Surveys
    ) -> None:
        self.others = tuple(calls.others)
        self._calls = calls
        self._groups = groups
        self._shard_of = shard_of
        self._own = own
        calls.handle(FAR, self._answer)

    def home(self, promise_id: str) -> int:
        """Return the process that has a promise."""
        return self._groups[self._shard_of(promise_id)]

    async def made(
        self, id_prefix: str, make: Callable[[FarPromises], Awaitable[Answered]]
    ) -> Answered:
        """Return an answer, when all that it has looked at in other groups is known.

        Raises ShardsError.
        """
        known = _KnownFar(self, id_prefix)
        for _ in range(ROUNDS_COUNT):
            answer = await make(known)
            if not await known.fetch():
                break
        return answer

    async def ask(self, asked: dict[int, FarAsked]) -> dict[int, FarFound]:
        """Return what processes know. Raises ShardsError."""
        return await ask_each(self._calls, FAR, asked)

    async def _answer(self, _process: int, asked: FarAsked) -> FarFound:
        own = self._own
        return FarFound(
            await own.found(asked.ids),
            await own.resumed_by(asked.roots),
            await own.existing(asked.names),
            [await own.below(root, asked.id_prefix) for root in asked.below],
        )
