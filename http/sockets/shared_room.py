"""Connections of all processes of a server: those of one address, and workers' streams.

Each address has a home process, by its hash. It is told how many connections of the address each
process has, and tells all when these are as many as an address may have, and when they are not any
more. A connection that is accepted before that word has come may be one too many. While the home is
away, each process counts what it has itself.

Workers' streams are where their groups have their homes, so each process tells the others some
times a second how many it has.
"""

from collections.abc import Sequence
from typing import Final, final

from msgspec import Struct

from troth.persistence.placement import by_id
from troth.shards.delivery.polls import Polls
from troth.shards.mesh.calls import ProcessCalls, ProcessNote

from .connection_room import ConnectionRoom


class CountedAddress(Struct, frozen=True, array_like=True):
    """How many connections of an address a process has now."""

    address: str
    count: int


class FullAddress(Struct, frozen=True, array_like=True):
    """Whether an address has as many connections as it may have."""

    address: str
    is_full: bool


COUNTED: Final = ProcessNote("connections.counted", list[CountedAddress])
COUNT: Final = ProcessNote("connections.count", type(None))
"""Say how many you have of each address whose home this process is."""
FULL: Final = ProcessNote("connections.full", list[FullAddress])
STREAMS: Final = ProcessNote("connections.streams", int)


@final
class SharedRoom:
    """What this process knows of the others' connections, and tells them of its own."""

    def __init__(self, room: ConnectionRoom, polls: Polls, calls: ProcessCalls) -> None:
        self._room = room
        self._polls = polls
        self._calls = calls
        self._home_of = by_id(1 + len(calls.others))
        self._counts: dict[str, dict[int, int]] = {}
        """Of the addresses whose home this is: how many each process has."""
        self._streams: dict[int, int] = {}
        self._streams_told_count = 0
        room.when_counted = self._counted_here
        calls.hear(COUNTED, self._counted_there)
        calls.hear(COUNT, lambda process, _: self._tell_all(process))
        calls.hear(FULL, lambda _, said: self._heard_full(said))
        calls.hear(STREAMS, self._heard_streams)
        calls.when_linked.append(self._linked)
        calls.when_parted.append(self._parted)
        calls.when_looking.append(self._look)

    # What this process has

    def _counted_here(self, address: str, count: int) -> None:
        home = self._home_of(address)
        if home == self._calls.own:
            self._note(home, address, count)
        else:
            self._calls.note(home, COUNTED, [CountedAddress(address, count)])

    def _tell_all(self, home: int) -> None:
        """Tell a home of all that it counts."""
        found = [
            CountedAddress(address, count)
            for address, count in self._room.by_address.items()
            if self._home_of(address) == home
        ]
        if found:
            self._calls.note(home, COUNTED, found)

    def _heard_full(self, said: Sequence[FullAddress]) -> None:
        for one in said:
            self._set(one.address, is_full=one.is_full)

    def _set(self, address: str, *, is_full: bool) -> None:
        if is_full:
            self._room.full_addresses.add(address)
        else:
            self._room.full_addresses.discard(address)

    # Addresses whose home this process is

    def _counted_there(self, process: int, said: Sequence[CountedAddress]) -> None:
        for one in said:
            self._note(process, one.address, one.count)

    def _note(self, process: int, address: str, count: int) -> None:
        counts = self._counts.setdefault(address, {})
        if count:
            counts[process] = count
        else:
            counts.pop(process, None)
        if not counts:
            del self._counts[address]
        limit_count = self._room.per_address_limit_count
        is_full = 0 < limit_count <= sum(counts.values())
        if is_full is not (address in self._room.full_addresses):
            self._set(address, is_full=is_full)
            self._calls.note_all(FULL, [FullAddress(address, is_full)])

    # Links and time

    def _linked(self, process: int) -> None:
        full = [
            FullAddress(address, True)
            for address in self._room.full_addresses
            if self._home_of(address) == self._calls.own
        ]
        if full:
            self._calls.note(process, FULL, full)
        self._calls.note(process, COUNT, None)
        self._tell_all(process)
        self._calls.note(process, STREAMS, self._polls.connections_count)

    def _parted(self, process: int) -> None:
        """Forget what a process had, and what only it can say."""
        for address in [one for one, counts in self._counts.items() if process in counts]:
            self._note(process, address, 0)
        for address in list(self._room.full_addresses):
            if self._home_of(address) == process:
                self._set(address, is_full=False)
        self._streams.pop(process, None)
        self._polls.elsewhere_count = sum(self._streams.values())

    def _look(self) -> None:
        count = self._polls.connections_count
        if count != self._streams_told_count:
            self._streams_told_count = count
            self._calls.note_all(STREAMS, count)

    def _heard_streams(self, process: int, count: int) -> None:
        self._streams[process] = count
        self._polls.elsewhere_count = sum(self._streams.values())
