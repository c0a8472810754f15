"""Parcels between two processes: each once and in order, over links and starts of either."""

from typing import Any

import pytest
from msgspec import Struct

from troth.shards.mesh import parcels as parcels_module
from troth.shards.mesh.codec import encode_said
from troth.shards.mesh.frames import LinkDamaged
from troth.shards.mesh.parcels import RECEIPT_COUNT, Parcels

PARCELS = "parcels"


class Word(Struct, frozen=True, array_like=True):
    """What a parcel holds here."""

    text: str


class Calls:
    """One process's end of a link; what it says is kept until it is carried over."""

    def __init__(self, other: int) -> None:
        self.others = (other,)
        self.incarnation = 1
        self.said: list[tuple[Any, Any]] = []
        self.listeners: dict[Any, Any] = {}
        self.take_parcels: Any = None
        self.when_linked: list[Any] = []
        self.when_parted: list[Any] = []
        self.when_looking: list[Any] = []

    def hear(self, note: Any, listener: Any) -> None:
        self.listeners[note.name] = listener

    def note(self, _: int, note: Any, said: Any) -> None:
        self.said.append((note.name, said))

    def parcel(self, _: int, parcel: Any) -> int:
        body = encode_said([parcel])
        self.said.append((PARCELS, body))
        return len(body)

    def bring(self, process: int, name: str, content: Any) -> None:
        """Hear what the other has said."""
        if name == PARCELS:
            self.take_parcels(process, content, 0)
        else:
            self.listeners[name](process, content)

    def incarnation_of(self, _: int) -> int:
        return self.incarnation


class End:
    """One process with its parcels: what came, and how often something was lost."""

    def __init__(self, own: int, incarnation: int = 1, **limits: int) -> None:
        self.other = 1 - own
        self.calls = Calls(self.other)
        self.came: list[str] = []
        self.lost: list[int] = []
        self.parcels: Parcels[Word] = Parcels(
            Word,
            self.calls,  # type: ignore[arg-type]  # all that is used of it
            incarnation,
            lambda _, word: self.came.append(word.text),
            when_room=lambda _: None,
            when_lost=self.lost.append,
            **limits,
        )

    def put(self, text: str) -> None:
        """Send a word."""
        self.parcels.put(self.other, Word(text))

    def link(self, incarnation: int = 1) -> None:
        """The link to the other has come up."""
        self.calls.incarnation = incarnation
        for act in self.calls.when_linked:
            act(self.other)

    def look(self) -> None:
        for act in self.calls.when_looking:
            act()


def carry(source: End, target: End) -> list[tuple[Any, Any]]:
    """Bring all that one has said to the other; what that was."""
    said, source.calls.said = source.calls.said, []
    for name, content in said:
        target.calls.bring(target.other, name, content)
    return said


def linked(**limits: int) -> tuple[End, End]:
    one, other = End(0, **limits), End(1)
    for end in (one, other):
        end.link()
        assert end.lost == [end.other], "it has just met the other"
        end.lost.clear()
    return one, other


def test_receipts_are_told_after_many_or_after_a_while() -> None:
    """Until then parcels are kept, and come again with the next link, and count once."""
    one, other = linked()
    for number in range(RECEIPT_COUNT + 2):
        one.put(str(number))
    carry(one, other)
    carry(other, one)
    assert len(one.parcels._outbound[1].kept) == 2
    one.link()
    assert len(carry(one, other)) == 2
    other.look()
    carry(other, one)
    assert not one.parcels._outbound[1].kept
    assert other.came == [str(number) for number in range(RECEIPT_COUNT + 2)]
    assert other.lost == []


def test_a_gap_breaks_the_link() -> None:
    one, other = linked()
    for name in ("a", "b"):
        one.put(name)
    del one.calls.said[0]
    with pytest.raises(LinkDamaged, match="parcel 2 came after 0"):
        carry(one, other)
    assert other.came == []


def test_what_an_earlier_start_has_said_counts_no_more() -> None:
    """Neither its parcels, after those of the next start, nor receipts for it."""
    one, other = linked()
    one.put("old")
    late = carry(one, other)
    again = End(0, incarnation=2)
    again.link()
    again.put("new")
    carry(other, again)
    carry(again, other)
    assert len(other.lost) == 1, "what it had said to the one before may be lost"
    for name, content in late:
        other.calls.bring(0, name, content)
    assert other.came == ["old", "new"]
    other.look()
    receipts = [one for one in other.calls.said if one[0] == parcels_module._RECEIPT.name]
    for name, content in receipts:
        one.calls.bring(1, name, content)
    assert len(one.parcels._outbound[1].kept) == 1


def test_what_is_for_the_next_owner_of_a_group_does_not_go_to_the_one_before() -> None:
    """The next one speaks first, while there is a link to the one before: it lives on for a while.

    It would take the first parcel, and say so; the next one would never have it, and break each
    link (seeds 1 and 3 of `--nodes 3 --groups 4`).
    """
    one, before = linked()
    after = End(1, incarnation=2)
    after.link()
    after.put("here I am")
    carry(after, one)
    one.put("a")
    carry(one, before)
    before.look()
    carry(before, one)
    one.link()  # to the one before, once more
    carry(one, before)
    assert before.came == []
    one.link(incarnation=2)
    one.put("b")
    carry(one, after)
    assert after.came == ["a", "b"]


def test_too_many_for_a_process_that_does_not_listen_are_dropped_and_that_is_told() -> None:
    one, other = linked(limit_count=3)
    for number in range(5):
        one.put(str(number))
    assert one.parcels.room_count(1) == 0
    carry(one, other)
    other.look()
    carry(other, one)
    assert len(one.lost) == 1
    carry(one, other)
    assert len(other.lost) == 1
    one.put("later")
    carry(one, other)
    assert other.came == ["0", "1", "2", "later"]
