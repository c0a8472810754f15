"""Looking at what is kept of a cluster, as each process does all the time."""

import time

import pytest

from tests.helpers.nats import NatsServer
from troth.persistence.streams.cluster import ClusterBook
from troth.persistence.streams.jetstream_connection import JetStreamConnection
from troth.persistence.streams.jetstream_notes import Notes
from troth.persistence.streams.jetstream_url import read_jetstream_url
from troth.persistence.streams.jetstream_watch import WHOLE_INTERVAL_MS, NotesWatch
from troth.persistence.streams.sharing import Wishes
from troth.persistence.streams.stream import StreamUnreachable

from .books import Place, jetstream_book, names, new_of

pytestmark = pytest.mark.slow
_AGE_LIMIT_MS = 60_000


def test_a_look_finds_what_others_have_written_since(place: Place, book: ClusterBook) -> None:
    new = new_of()
    book.create(new)
    other = place.book()
    assert book.look() == ([], [], Wishes(), new.features)
    other.note_member("a", "http://a:8001", "1.2", "a:8003", home="here")
    other.note_owner(1, "a", 5, 77)
    assert other.wish(Wishes(), Wishes(placed={1: "b"}))
    holders, members, wishes, features = book.look()
    assert [one[:3] for one in holders] == [(1, "a", 5)]
    assert holders[0].since_ms < _AGE_LIMIT_MS
    assert members[0].seen_ms < _AGE_LIMIT_MS
    assert members[0]._replace(seen_ms=0) == other.members()[0]._replace(seen_ms=0)
    assert (wishes, features) == (Wishes(placed={1: "b"}), new.features)
    other.note_owner(1, "b", 6, 78)
    other.note_owner(0, "a", 2, 77)
    assert [one[:3] for one in book.look().holders] == [(0, "a", 2), (1, "b", 6)]
    assert book.look().members[0].home == "here"
    other.close()


def test_a_look_tells_how_old_things_are(book: ClusterBook) -> None:
    book.create(new_of())
    book.look()
    book.note_member("a", "", "1")
    book.note_owner(0, "a", 1, 77)
    begun_s = time.monotonic()
    book.look()
    time.sleep(0.2)
    looked = book.look()
    passed_ms = (time.monotonic() - begun_s) * 1000
    assert 200 <= looked.members[0].seen_ms <= passed_ms + 2_000
    assert 150 <= looked.holders[0].since_ms <= passed_ms + 2_000
    assert looked.members[0].seen_ms <= book.members()[0].seen_ms + 200


def test_a_look_at_no_cluster_finds_nothing(place: Place) -> None:
    book = place.book()
    with pytest.raises(StreamUnreachable):
        book.look()
    book.close()


def test_a_watch_reads_only_what_is_new_and_now_and_then_all(
    nats_server_of_session: NatsServer,
) -> None:
    url = f"{nats_server_of_session.url}/books{next(names)}"
    book = jetstream_book(url)
    book.create(new_of())
    book.close()
    connection = JetStreamConnection(read_jetstream_url(url), 10_000)
    notes = Notes(connection, f"{read_jetstream_url(url).name}_cluster")
    now_ms = 0
    watch = NotesWatch(connection, notes, lambda: now_ms)
    for key in ("one", "two"):
        notes.write(key, b"1")
    first = {key: one.note.body for key, one in watch.look().items()}
    assert first["one"] == first["two"] == b"1"
    notes.write("two", b"2")
    notes.write("three", b"3")
    notes.remove("one")
    now_ms = WHOLE_INTERVAL_MS - 1
    found = watch.look()
    assert [found[key].note.body for key in ("one", "two", "three")] == [b"1", b"2", b"3"]
    assert watch.age_ms(found["three"]) == 0
    assert watch.age_ms(found["one"]) >= now_ms
    assert "description" in found
    now_ms += 1
    found = watch.look()
    assert "one" not in found, "it was removed"
    assert watch.age_ms(found["three"]) == 1, "its age is that since it was first seen"
    notes.write("one", b"4")
    assert watch.look()["one"].note.body == b"4"
    connection.close()
