"""The registry of poll connections: who gets a message, when it counts, where it goes back to."""

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from troth.core.limits import POLL_CHUNK_BYTES
from troth.shards.delivery.dialects import DecidedDialects, Dialect
from troth.shards.delivery.polls import (
    ConnectionClosed,
    ConnectionReplaced,
    Item,
    Listening,
    PollConnection,
    Polls,
    TooManyConnections,
)


class Text:
    """An item whose body is its name."""

    dialect = Dialect.REST

    def __init__(self, name: str) -> None:
        self.name = name

    def body(self) -> bytes:
        return self.name.encode()


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.delivered_items: list[Item] = []
        self.returned_items: list[Item] = []
        self.rooms: list[tuple[str, str]] = []
        self.ends: list[tuple[str, str, bool]] = []
        self.delivered_by: list[tuple[str, str]] = []

    def delivered(self, items: list[Item], group: str, connection_id: str) -> None:
        self.delivered_items += items
        self.delivered_by += [(group, connection_id)] * len(items)

    def returned(self, items: list[Item]) -> None:
        self.returned_items += items

    def came(self, group: str, connection_id: str) -> None:
        self.rooms.append((group, connection_id))

    def has_room(self, group: str, connection_id: str) -> None:
        self.rooms.append((group, connection_id))

    def ended(self, group: str, connection_id: str, *, is_coming_back: bool) -> None:
        self.ends.append((group, connection_id, is_coming_back))


def make(*, connections: int = 10, buffer: int = 3) -> tuple[Polls, Listener]:
    polls = Polls(connections_limit_count=connections, buffer_limit_count=buffer)
    listener = Listener()
    polls.attach(listener)
    return polls, listener


async def test_receive_returns_all_there_are_and_confirm_makes_them_delivered() -> None:
    polls, listener = make()
    with polls.connect("g", "a") as connection:
        one, two = Text("one"), Text("two")
        assert polls.put(one, "g", None, exact=False)
        assert polls.put(two, "g", None, exact=False)

        assert await connection.receive() == [b"one", b"two"]
        assert listener.delivered_items == []  # handed out is not yet delivered
        connection.confirm()

        assert listener.delivered_items == [one, two]
    assert listener.returned_items == []


async def test_receive_waits_and_a_cancelled_wait_loses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    polls, _ = make()
    with polls.connect("g", "a") as connection:
        with trio.move_on_after(15) as scope:
            await connection.receive()
        assert scope.cancelled_caught
        polls.put(Text("late"), "g", None, exact=False)
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await connection.receive()
        assert await connection.receive() == [b"late"]


async def test_leaving_without_confirm_gives_everything_back_in_order() -> None:
    polls, listener = make()
    one, two = Text("one"), Text("two")
    with polls.connect("g", "a") as connection:
        polls.put(one, "g", None, exact=False)
        await connection.receive()
        polls.put(two, "g", None, exact=False)
    assert listener.returned_items == [one, two]
    assert listener.delivered_items == []
    assert not polls.put(Text("three"), "g", None, exact=False)
    assert polls.statistics().connections_count == 0
    assert polls.statistics().groups_count == 0


async def test_a_newer_connection_replaces_the_older_and_takes_its_messages() -> None:
    polls, listener = make(connections=1)
    first = polls.connect("g", "a")
    item = Text("one")
    polls.put(item, "g", None, exact=False)
    assert await first.receive() == [b"one"]

    with polls.connect("g", "a"):  # allowed although all places are taken
        assert listener.returned_items == [item]
        with pytest.raises(ConnectionReplaced):
            await first.receive()
        first.confirm()  # too late: it was given back
        assert listener.delivered_items == []
        first.__exit__(None, None, None)  # must not end the newer connection
        assert polls.put(Text("two"), "g", "a", exact=True)


async def test_replacing_wakes_a_waiting_receive() -> None:
    polls, _ = make()
    first = polls.connect("g", "a")
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(ConnectionReplaced):
                await first.receive()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        polls.connect("g", "a")


def test_too_many_connections_are_refused() -> None:
    polls, _ = make(connections=2)
    polls.connect("g", "a")
    polls.connect("h", "a")
    with pytest.raises(TooManyConnections):
        polls.connect("g", "b")
    assert polls.statistics().refused_total_count == 1


async def test_close_ends_all_connections_and_those_that_come_later() -> None:
    polls, listener = make()
    one, two = polls.connect("g", "a"), polls.connect("g", "b")
    item = Text("one")
    polls.put(item, "g", "a", exact=False)
    polls.close()
    assert listener.returned_items == [item]
    assert not polls.put(Text("two"), "g", None, exact=False)
    for connection in (one, two, polls.connect("g", "c")):
        with pytest.raises(ConnectionClosed):
            await connection.receive()


def test_exact_messages_go_to_their_connection_only() -> None:
    polls, _ = make()
    polls.connect("g", "a")
    assert not polls.put(Text("one"), "g", "b", exact=True)
    assert polls.put(Text("two"), "g", "a", exact=True)
    assert not polls.put(Text("three"), "other group", "a", exact=True)


async def test_any_prefers_its_id_and_falls_back_to_the_group() -> None:
    polls, _ = make(buffer=2)
    a, b = polls.connect("g", "a"), polls.connect("g", "b")
    for name in ("1", "2", "3"):
        assert polls.put(Text(name), "g", "b", exact=False)
    assert await b.receive() == [b"1", b"2"]
    assert await a.receive() == [b"3"]  # b was full
    assert polls.put(Text("4"), "g", "absent", exact=False)


async def test_idle_connections_take_turns_and_a_hanging_one_gets_no_more() -> None:
    polls, _ = make(buffer=100)
    a, b, hanging = (polls.connect("g", name) for name in ("a", "b", "hanging"))
    received: list[list[bytes]] = []
    for number in range(9):
        polls.put(Text(str(number)), "g", None, exact=False)
        for connection in (a, b):
            if connection.load_count:
                received.append(await connection.receive())
                connection.confirm()
    assert hanging.load_count == 1
    assert [texts for texts in received if len(texts) != 1] == []
    assert len(received) == 8


async def test_full_buffers_refuse_and_confirming_makes_room() -> None:
    polls, listener = make(buffer=2)
    connection = polls.connect("g", "a")
    assert polls.room_count("g", None, Dialect.REST) == 2
    for name in ("1", "2"):
        assert polls.put(Text(name), "g", None, exact=False)
    assert not polls.put(Text("3"), "g", None, exact=False)
    await connection.receive()
    assert not polls.put(Text("3"), "g", None, exact=False)  # written, perhaps; not confirmed
    assert polls.room_count("g", "a", Dialect.REST) == 0
    listener.rooms.clear()
    connection.confirm()
    assert listener.rooms == [("g", "a")]
    assert polls.room_count("g", "a", Dialect.REST) == 2
    assert polls.put(Text("3"), "g", None, exact=False)


async def test_discarded_messages_are_not_sent_and_not_reported() -> None:
    polls, listener = make()
    connection = polls.connect("g", "a")
    waiting, written = Text("waiting"), Text("written")
    polls.put(written, "g", None, exact=False)
    await connection.receive()
    polls.put(waiting, "g", None, exact=False)
    polls.discard(waiting)
    polls.discard(written)
    assert connection.load_count == 1  # what is being written still takes its place
    connection.confirm()
    assert connection.load_count == 0
    assert listener.delivered_items == []
    connection.__exit__(None, None, None)
    assert listener.returned_items == []


def test_a_thousand_connections_share_evenly() -> None:
    polls, _ = make(connections=1_000, buffer=100)
    connections = [polls.connect("g", str(number)) for number in range(1_000)]
    for number in range(50_000):
        assert polls.put(Text(str(number)), "g", None, exact=False)
    assert {connection.load_count for connection in connections} == {50}


_ACTIONS = st.one_of(
    st.tuples(st.just("connect"), st.sampled_from("gh"), st.sampled_from("abc")),
    st.tuples(st.just("leave"), st.sampled_from("gh"), st.sampled_from("abc")),
    st.tuples(st.just("receive"), st.sampled_from("gh"), st.sampled_from("abc")),
    st.tuples(st.just("confirm"), st.sampled_from("gh"), st.sampled_from("abc")),
    st.tuples(st.just("put any"), st.sampled_from("gh"), st.sampled_from([*"abc", None])),
    st.tuples(st.just("put exact"), st.sampled_from("gh"), st.sampled_from("abc")),
    st.tuples(st.just("discard"), st.integers(0, 30), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(_ACTIONS, max_size=40))
def test_every_message_is_accounted_for_once(actions: list[tuple[str, object, str | None]]) -> None:
    """Each item put is, at any moment: at one connection, delivered, given back, or discarded."""

    async def scenario() -> None:
        polls, listener = make(connections=4, buffer=3)
        live: dict[tuple[object, object], PollConnection] = {}
        put: list[Text] = []
        discarded: list[Item] = []
        for action, first, second in actions:
            connection = live.get((first, second))
            if action == "connect":
                assert isinstance(first, str)
                assert isinstance(second, str)
                try:
                    live[first, second] = polls.connect(first, second)
                except TooManyConnections:
                    assert len(live) == 4
            elif action.startswith("put"):
                assert isinstance(first, str)
                item = Text(str(len(put)))
                exact = action == "put exact"
                room_count = polls.room_count(first, second if exact else None, Dialect.REST)
                assert polls.put(item, first, second, exact=exact) == (room_count > 0)
                if room_count > 0:
                    put.append(item)
            elif action == "discard":
                assert isinstance(first, int)
                if first < len(put):
                    item = put[first]
                    if item not in listener.delivered_items + listener.returned_items:
                        discarded.append(item)
                    polls.discard(item)
            elif connection is not None:
                if action == "leave":
                    connection.__exit__(None, None, None)
                    del live[first, second]
                elif action == "confirm":
                    connection.confirm()
                elif connection.load_count and not connection._handed_out:
                    await connection.receive()
            assert polls.statistics().buffered_count == sum(
                connection.load_count for connection in live.values()
            )
        for connection in live.values():
            connection.__exit__(None, None, None)
        ended = listener.delivered_items + listener.returned_items + list(dict.fromkeys(discarded))
        assert len(ended) == len(set(ended))
        assert set(ended) == set(put)

    trio.run(scenario)


async def test_who_listens_is_told_by_group_connection_and_dialect() -> None:
    polls, _ = make(buffer=1)
    assert polls.listening("g", None, Dialect.REST) == Listening(0, 0, 0)
    polls.connect("g", "a", Dialect.REST)
    polls.connect("g", "b", Dialect.ENVELOPE)
    polls.connect("h", "c", Dialect.REST)
    assert polls.listening("g", None, Dialect.REST) == Listening(2, 1, 1)
    assert polls.listening("g", "a", Dialect.REST) == Listening(1, 1, 1)
    assert polls.listening("g", "b", Dialect.REST) == Listening(1, 0, 0)
    assert polls.listening("g", "c", Dialect.REST) == Listening(0, 0, 0)
    polls.put(Text("one"), "g", "a", exact=True)
    assert polls.listening("g", "a", Dialect.REST) == Listening(1, 1, 0)


async def test_open_connections_are_found_and_closed_ones_are_not() -> None:
    polls, _ = make()
    a, b, c = (polls.connect(group, name) for group, name in (("g", "a"), ("g", "b"), ("h", "c")))
    assert polls.connections() == [a, b, c]
    assert polls.largest_groups(1) == ("g",)
    assert polls.find("g", "b") is b
    assert polls.find("g", "c") is None
    assert polls.find("absent", "a") is None
    assert polls.is_connected("c")
    with c:
        pass
    assert not polls.is_connected("c")
    assert polls.find("h", "c") is None
    assert polls.largest_groups(5) == ("g",)


async def test_large_messages_are_handed_out_one_after_the_other() -> None:
    """A stream that is slow holds no more memory than for one of them."""
    polls, listener = make()
    with polls.connect("g", "a") as connection:
        texts = [Text(letter * POLL_CHUNK_BYTES) for letter in "xyz"]
        for text in texts:
            assert polls.put(text, "g", None, exact=False)
        for text in texts:
            assert await connection.receive() == [text.body()]
            connection.confirm()
            assert listener.delivered_items[-1] is text


async def test_what_is_not_in_a_stream_is_given_up_without_a_word() -> None:
    """It was delivered, or its stream has ended."""
    polls, listener = make()
    polls.discard(Text("never there"))
    assert listener.rooms == []
    connection = polls.connect("g", "a")
    with connection:
        text = Text("text")
        assert polls.put(text, "g", None, exact=False)
    connection.__exit__(None, None, None)
    assert listener.returned_items == [text]
    assert listener.ends == [("g", "a", False)]
    polls.discard(text)
    await trio.lowlevel.checkpoint()


def test_only_so_many_dialects_of_workers_that_are_away_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The newest ones."""
    monkeypatch.setattr("troth.shards.delivery.dialects._DECISIONS_LIMIT_COUNT", 2)
    decided = DecidedDialects()
    for name in "abc":
        decided.note((None, name), Dialect.ENVELOPE)
    assert list(decided) == [(None, "b"), (None, "c")]
