"""What homes know of messages and streams, for an answer about tasks of this group.

Who looks at a task does not wait (`surveys/causes.py`), and its receiver may have its home in
another process. So an answer is made with what is known; what was missing is asked of the homes,
all together, and the answer is made again (`Surveys`).

A home that is away is not waited for: of its messages nothing is known, and no one listens there.
"""

from collections.abc import Mapping
from typing import Final, final

from msgspec import Struct

from troth.core.grammar.addresses import Address, Undeliverable
from troth.core.model import Json
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import Listening, Polls
from troth.shards.delivery.shipments import ShipmentView
from troth.shards.errors import ShardsError
from troth.shards.mesh.calls import ProcessCall, ProcessCalls
from troth.shards.mesh.homes import MessageHomes
from troth.shards.surveys.surveys import SentMessages

ANSWER_LIMIT_MS: Final = 1_000
"""How long other processes are waited for."""

Place = tuple[str, str | None, Dialect]
"""Who is asked about: a poll group, one connection of it or any, and what it has to understand."""


class LooksAsked(Struct, frozen=True, array_like=True):
    """What is asked of a process: about messages, by their keys, listeners, and streams of ids."""

    keys: list[str]
    places: list[Place]
    connection_ids: list[str]


class LooksFound(Struct, frozen=True, array_like=True):
    """What it knows, each in the order in which it was asked; and its largest groups."""

    views: list[ShipmentView | None]
    listening: list[Listening]
    connected: list[bool]
    groups: list[tuple[str, int]]


LOOKS: Final = ProcessCall("looks", LooksAsked, LooksFound)


class _Wanted:
    """What is to be asked of one process."""

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self.places: dict[Place, None] = {}


@final
class HomeLooks:
    """What is known for one answer: `causes.Messages` and `causes.Streams`. See `AllLooks`."""

    def __init__(self, all_looks: "AllLooks") -> None:
        self._all = all_looks
        self._views: dict[str, ShipmentView | None] = {}
        self._listening: dict[Place, Listening] = {}
        self._connected: dict[str, bool] = {}
        self._groups: dict[str, int] | None = None
        self._wanted: dict[int, _Wanted] = {}
        self._wanted_ids: dict[str, None] = {}
        self._wants_groups = False

    def resolve(self, receiver: Json) -> Address | Undeliverable:
        """Return where the messages of a REST task with this receiver go."""
        return self._all.messages.resolve(receiver)

    def look(self, key: str) -> ShipmentView | None:
        """Return what is known of a message."""
        home = self._all.homes.home_with(key)
        if home is None:
            return self._all.messages.look(key)
        if key not in self._views:
            self._wanted.setdefault(home, _Wanted()).keys[key] = None
        return self._views.get(key)

    def listening(self, group: str, connection_id: str | None, dialect: Dialect) -> Listening:
        """Return who listens to a group, or to one connection of it alone."""
        home = self._all.homes.finder.of_group(group)
        if home == self._all.own:
            return self._all.polls.listening(group, connection_id, dialect)
        place = group, connection_id, dialect
        if place not in self._listening:
            self._wanted.setdefault(home, _Wanted()).places[place] = None
        return self._listening.get(place, _NONE)

    def is_connected(self, connection_id: str) -> bool:
        """Return whether a stream of this id is open, in whatever group."""
        if self._all.polls.is_connected(connection_id):
            return True
        if connection_id not in self._connected:
            self._wanted_ids[connection_id] = None
        return self._connected.get(connection_id, False)

    def largest_groups(self, limit_count: int) -> tuple[str, ...]:
        """Return the names of the groups with most connections, most first."""
        if self._groups is None:
            self._wants_groups = True
            return ()
        sizes = sorted((-count, name) for name, count in self._groups.items())
        return tuple(name for _, name in sizes[:limit_count])

    async def fetch(self) -> bool:
        """Ask for what was missing; return whether there was anything."""
        if not (self._wanted or self._wanted_ids or self._wants_groups):
            return False
        wanted, self._wanted = self._wanted, {}
        ids, self._wanted_ids = list(self._wanted_ids), {}
        of_all = bool(ids) or self._wants_groups
        self._wants_groups = False
        asked = {
            process: LooksAsked(
                list(wanted[process].keys) if process in wanted else [],
                list(wanted[process].places) if process in wanted else [],
                ids,
            )
            for process in (self._all.processes if of_all else wanted)
        }
        found = await self._all.ask(asked)
        groups: dict[str, int] = {}
        for process, one in asked.items():
            answer = found.get(process)
            if answer is None:
                self._views.update(dict.fromkeys(one.keys))
                self._listening.update(dict.fromkeys(one.places, _NONE))
                continue
            self._views.update(zip(one.keys, answer.views, strict=True))
            self._listening.update(zip(one.places, answer.listening, strict=True))
            for name, is_connected in zip(ids, answer.connected, strict=True):
                self._connected[name] = self._connected.get(name, False) or is_connected
            groups.update(answer.groups)
        for name in ids:
            self._connected.setdefault(name, False)
        if of_all:
            self._groups = groups
        return True


_NONE: Final = Listening(0, 0, 0)


@final
class AllLooks:
    """Asks other processes about messages and streams, and answers what they ask.

    `messages` and `polls` are those of this process.
    """

    def __init__(
        self, calls: ProcessCalls, homes: MessageHomes, messages: SentMessages, polls: Polls
    ) -> None:
        self.homes = homes
        self.messages = messages
        self.polls = polls
        self.own = calls.own
        self.processes = sorted((calls.own, *calls.others))
        self._calls = calls
        calls.handle(LOOKS, self._answer)

    def new(self) -> HomeLooks:
        """Return what one answer is made with."""
        return HomeLooks(self)

    async def ask(self, asked: Mapping[int, LooksAsked]) -> dict[int, LooksFound]:
        """Return what processes know, as far as they are there."""
        found = await self._calls.call_each(LOOKS, asked, wait_ms=0, limit_ms=ANSWER_LIMIT_MS)
        return {
            process: answer
            for process, answer in found.items()
            if not isinstance(answer, ShardsError)
        }

    async def _answer(self, _: int, asked: LooksAsked) -> LooksFound:
        groups = self.polls.statistics().connections_by_group
        return LooksFound(
            [self.messages.look(key) for key in asked.keys],
            [self.polls.listening(*place) for place in asked.places],
            [self.polls.is_connected(name) for name in asked.connection_ids],
            list(groups),
        )
