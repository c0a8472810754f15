"""What is kept of a cluster, which PostgreSQL and NATS JetStream do alike.

Below that is what only JetStream has to do, since nothing spans two of its streams.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from threading import Barrier, Thread
from typing import TypeVar

import pytest

from tests.helpers.nats import NatsServer
from tests.helpers.postgres import PostgresServer
from troth.core.limits import CLUSTER_STANDING_BY_MS, STREAM_ANSWER_LIMIT_MS
from troth.persistence.identity import encode_identity
from troth.persistence.streams.chain import ChainMark
from troth.persistence.streams.cluster import ClusterBook, ClusterDescription, MemberSeen
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.jetstream_cluster import JetStreamCluster
from troth.persistence.streams.jetstream_connection import JetStreamConnection
from troth.persistence.streams.jetstream_keeping import JetStreamKeeping
from troth.persistence.streams.jetstream_layout import JetStreamLayout
from troth.persistence.streams.jetstream_notes import Notes
from troth.persistence.streams.jetstream_stream import JetStreamStream
from troth.persistence.streams.jetstream_url import read_jetstream_url
from troth.persistence.streams.postgres_cluster import CREATION_LIMIT_MS, PostgresCluster
from troth.persistence.streams.sharing import Wishes
from troth.persistence.streams.stream import SnapshotDescription, StreamRefused, StreamUnreachable
from troth.shards.streams.stream_opening import refuse_unlike

from .books import Place, empty_database, jetstream_book, names, new_of

pytestmark = pytest.mark.slow
_AGE_LIMIT_MS = 60_000

Answer = TypeVar("Answer")


def test_a_cluster_is_made_once(place: Place, book: ClusterBook) -> None:
    assert book.description() is None
    new = new_of()

    assert book.create(new) == new
    assert book.create(new_of()) == new
    assert book.create(new_of("others")) == new
    assert book.create(new_of(groups_count=2)) == new
    other = place.book()
    assert other.description() == new
    other.close()
    assert [one.group for one in book.groups()] == [0, 1, 2]


def test_those_that_make_it_together_get_the_same_one(place: Place) -> None:
    found: list[ClusterDescription] = []
    together = Barrier(3)

    def create() -> None:
        book = place.book()
        together.wait()
        for _ in range(20):
            try:
                found.append(book.create(new_of()))
                break
            except (StreamUnreachable, StreamRefused):  # another one makes it at this moment
                time.sleep(0.1)
        book.close()

    threads = [Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def test_the_log_of_a_server_is_not_made_a_cluster(place: Place, book: ClusterBook) -> None:
    stream = place.group(0).stream()
    stream.found(b"who it is")

    with pytest.raises(StreamRefused, match="has the log of a server without a cluster"):
        book.create(new_of())

    assert book.description() is None
    assert stream.found(b"another") == b"who it is"
    stream.close()


def test_all_groups_have_the_identity_of_the_cluster(place: Place, book: ClusterBook) -> None:
    new = book.create(new_of())
    for group in range(3):
        stream = place.group(group).stream()
        assert stream.found(b"another") == encode_identity(new.identity)
        stream.close()


def test_nodes_are_known_by_their_names(book: ClusterBook) -> None:
    book.create(new_of())
    assert (book.members(), book.holders(), book.readers()) == ([], [], {})
    book.note_member("b", "http://b:8001", "1.0.0", "b:8003")
    book.note_member("host:/var/cache/it's a", "http://a:8001", "1.0.0")
    book.note_member("b", "http://b:9001", "1.0.1", "b:9003", FEATURES + 1, "host:/b")

    members = book.members()

    assert [one._replace(seen_ms=0) for one in members] == [
        MemberSeen("b", "http://b:9001", "1.0.1", 0, "b:9003", FEATURES + 1, "host:/b"),
        MemberSeen("host:/var/cache/it's a", "http://a:8001", "1.0.0", 0, None, FEATURES),
    ]
    assert all(0 <= member.seen_ms < _AGE_LIMIT_MS for member in members)
    book.note_member("b", "http://b:9001", "1.0.2")
    assert book.members()[0].mesh is None


def test_a_node_is_refused_if_it_shares_groups_and_others_do_not(
    place: Place, book: ClusterBook
) -> None:
    book.create(new_of())
    book.note_member("b", "http://b:8001", "1", "b:8003")
    refuse_unlike(book, "a", is_shared=True)
    refuse_unlike(book, "b", is_shared=False)
    with pytest.raises(StreamRefused, match="the server b shares the groups"):
        refuse_unlike(book, "a", is_shared=False)
    book.note_member("b", "http://b:8001", "1")
    refuse_unlike(book, "a", is_shared=False)
    with pytest.raises(StreamRefused, match="the server b serves without --mesh-listen"):
        refuse_unlike(book, "a", is_shared=True)
    place.put_back("b")
    refuse_unlike(book, "a", is_shared=True)


def test_members_may_write_more_when_all_that_are_there_read_it(
    place: Place, book: ClusterBook
) -> None:
    new = book.create(new_of())
    later = FEATURES + 1
    book.note_member("a", "http://a", "9.0.0", features=later)
    book.note_member("b", "http://b", "0.1.0")
    assert not book.finalize(later)
    assert book.description() == new
    place.put_back("b")

    assert book.finalize(later)

    assert book.description() == new._replace(features=later)
    assert not book.finalize(later), "they may already"
    assert not book.finalize(FEATURES)
    assert book.create(new_of()) == new._replace(features=later)


def test_how_far_nodes_have_read_is_known_by_group(place: Place, book: ClusterBook) -> None:
    book.create(new_of())
    for group, node, number in ((1, "b", 6), (1, "a", 5), (2, "a", 9), (1, "a", 7)):
        keeping = place.group(group).keeping()
        keeping.note_reader(node, number)
        keeping.close()

    found = book.readers()

    assert {group: [one[:2] for one in readers] for group, readers in found.items()} == {
        1: [("a", 7), ("b", 6)],
        2: [("a", 9)],
    }
    assert all(0 <= one.seen_ms < _AGE_LIMIT_MS for one in (*found[1], *found[2]))
    assert book.groups()[1].readers[0].number == 7


def test_owners_are_known_also_before_anything_is_in_their_streams(book: ClusterBook) -> None:
    book.create(new_of())
    for node, epoch in (("a", 3), ("b", 2), ("c", 4)):  # what comes late counts for nothing
        book.note_owner(2, node, epoch, 7)
    book.note_owner(0, "a", 1, 8)

    found = book.holders()

    assert [one[:3] for one in found] == [(0, "a", 1), (2, "c", 4)]
    assert all(0 <= one.since_ms < _AGE_LIMIT_MS for one in found)


def test_wishes_of_the_operator_change_unless_another_was_faster(
    place: Place, book: ClusterBook
) -> None:
    book.create(new_of())
    none = Wishes()
    assert book.wishes() == none
    first = Wishes(frozenset({"host:/var/cache/a"}), {2: "b"})
    assert book.wish(none, first)
    assert not book.wish(none, Wishes(placed={1: "c"})), "they are not those any more"
    other = place.book()
    assert other.wishes() == first
    assert other.wish(first, none)
    other.close()
    assert book.wishes() == none
    assert book.wish(none, first)


def test_a_database_of_an_earlier_version_gets_room_for_wishes(
    postgres_server_of_session: PostgresServer,
) -> None:
    url = empty_database(postgres_server_of_session)
    with contextlib.closing(PostgresCluster(url)) as book:
        new = book.create(new_of())
        postgres_server_of_session.query("ALTER TABLE troth_cluster DROP COLUMN wishes", url)
        assert book.wishes() == Wishes()
        wishes = Wishes(frozenset("a"))
        assert book.wish(Wishes(), wishes)
        assert (book.wishes(), book.description()) == (wishes, new)


def test_owners_that_note_themselves_together_are_all_known(
    place: Place, book: ClusterBook
) -> None:
    book.create(new_of(groups_count=8))

    def note(group: int) -> None:
        other = place.book()
        other.note_owner(group, "a", 1, 7)
        other.close()

    threads = [Thread(target=note, args=(group,)) for group in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [one.group for one in book.holders()] == [*range(8)]


def test_a_node_that_still_reads_is_not_taken_for_one_that_stands_by(
    place: Place, book: ClusterBook
) -> None:
    book.create(new_of())
    keeping = place.group(1).keeping()
    for number in (5, 8):  # it is started twice
        keeping.note_reader("a", number, is_starting=True)
        needed_number = keeping.needed_number()
        assert needed_number is not None
        assert needed_number <= number, "it is kept for it all the same"
        assert not _standing_by(book)
        keeping.note_reader("a", number + 1)
        assert _standing_by(book) == [("a", number + 1)]
        assert keeping.needed_number() == number + 1
    keeping.close()


def _standing_by(book: ClusterBook) -> list[tuple[str, int]]:
    readers = book.readers().get(1, ())
    return [(one.node, one.number) for one in readers if one.seen_ms < CLUSTER_STANDING_BY_MS]


def test_an_owner_is_shown_with_what_its_group_has(place: Place, book: ClusterBook) -> None:
    book.create(new_of())
    engine = place.group(1)
    stream, keeping = engine.stream(), engine.keeping()
    assert stream.append(1, 1, b"claim", is_claim=True)
    assert stream.append(2, 1, b"more", is_claim=False)
    book.note_owner(1, "a", 1, 2**62)
    keeping.note_reader("b", 2)
    keeping.note_reader("a", 1)
    pieces_place = keeping.begin_snapshot(1)
    assert book.groups()[1].snapshot_ms is None, "there is none that is whole"
    mark = ChainMark(1, 0, 1, 1, 0, 0)
    keeping.finish_snapshot(SnapshotDescription(7, pieces_place, 0, 0, "", 0, mark), 1)

    first, group, last = book.groups()

    assert first == last._replace(group=0)
    assert (first.node, first.epoch, first.last_number, first.readers) == (None, 0, 0, ())
    assert (group.node, group.epoch, group.incarnation, group.last_number) == ("a", 1, 2**62, 2)
    assert [(one.node, one.number) for one in group.readers] == [("a", 1), ("b", 2)]
    assert all(0 <= one.seen_ms < _AGE_LIMIT_MS for one in group.readers)
    assert group.snapshot_ms is not None
    assert 0 <= group.snapshot_ms < _AGE_LIMIT_MS
    stream.close()
    keeping.close()


def test_an_owner_of_an_earlier_epoch_does_not_take_the_place_of_a_later_one(
    place: Place, book: ClusterBook
) -> None:
    book.create(new_of())
    stream = place.group(0).stream()
    for epoch in (1, 2):
        assert stream.append(epoch, epoch, b"claim", is_claim=True)
    stream.close()
    book.note_owner(0, "a", 1, 10)
    assert book.groups()[0].node is None, "it is the last owner's epoch that counts"
    book.note_owner(0, "b", 2, 20)

    book.note_owner(0, "a", 1, 10)
    book.note_owner(0, "c", 2, 30)

    assert (book.groups()[0].node, book.groups()[0].incarnation) == ("b", 20)


# Only in NATS JetStream


@pytest.fixture
def url(nats_server_of_session: NatsServer) -> str:
    return f"{nats_server_of_session.url}/books{next(names)}"


@pytest.fixture
def nats_book(url: str) -> Iterator[JetStreamCluster]:
    book = jetstream_book(url)
    yield book
    book.close()


@pytest.fixture
def connection(url: str) -> Iterator[JetStreamConnection]:
    """Return an operator's connection."""
    connection = JetStreamConnection(read_jetstream_url(url), 10_000)
    yield connection
    connection.close()


def _layout(url: str, group: int) -> JetStreamLayout:
    return JetStreamLayout(read_jetstream_url(url).name, group)


def _bucket(url: str) -> str:
    return f"{read_jetstream_url(url).name}_cluster"


def test_what_was_begun_is_no_cluster_until_the_next_run_has_finished_it(
    monkeypatch: pytest.MonkeyPatch, url: str, nats_book: JetStreamCluster
) -> None:
    def fail(*_arguments: object) -> bytes:
        raise StreamUnreachable("the connection broke")

    new = new_of()
    with monkeypatch.context() as patched:
        patched.setattr(JetStreamLayout, "found", fail)
        with pytest.raises(StreamUnreachable):
            nats_book.create(new)
    assert nats_book.description() is None
    assert nats_book.create(new_of("others")) == new, "it is taken"
    assert nats_book.description() is None

    assert nats_book.create(new_of()) == new

    assert nats_book.description() == new
    stream = JetStreamStream(url, 2, may_make=False)
    assert stream.found(b"") == encode_identity(new.identity)
    stream.close()


def test_who_writes_first_what_a_cluster_is_has_made_it(
    monkeypatch: pytest.MonkeyPatch, url: str, nats_book: JetStreamCluster
) -> None:
    """Both have seen that there is none yet."""
    first = new_of()
    other = jetstream_book(url)
    write = Notes.write

    def write_late(notes: Notes, key: str, body: bytes, revision: int | None = None) -> int:
        monkeypatch.setattr(Notes, "write", write)
        assert other.create(first) == first
        return write(notes, key, body, revision)

    monkeypatch.setattr(Notes, "write", write_late)

    assert nats_book.create(new_of()) == first
    assert nats_book.description() == first
    other.close()


def test_streams_of_other_data_are_not_made_a_group(url: str, nats_book: JetStreamCluster) -> None:
    stream = JetStreamStream(url, 1, replicas_count=1)
    stream.found(b"who it is")

    with pytest.raises(StreamRefused, match="has the log of a server without a cluster"):
        nats_book.create(new_of())

    assert nats_book.description() is None
    stream.close()


@pytest.mark.parametrize("kind", ["frames", "pieces", "bucket"])
def test_a_stream_of_a_cluster_that_was_deleted_is_not_made_again(
    url: str, nats_book: JetStreamCluster, connection: JetStreamConnection, kind: str
) -> None:
    """An empty one would look as if nothing had ever been acknowledged."""
    new = nats_book.create(new_of())
    name = getattr(_layout(url, 1), kind)
    name = f"KV_{name}" if kind == "bucket" else name
    connection.api(f"STREAM.DELETE.{name}")
    stream = JetStreamStream(url, 1, may_make=False)

    with pytest.raises(StreamRefused, match=f"{name}: it is gone, but its cluster is there"):
        stream.found(encode_identity(new.identity))
    assert nats_book.create(new_of()) == new
    with pytest.raises(StreamRefused, match="it is gone"):
        stream.found(encode_identity(new.identity))
    stream.close()


def test_copies_are_as_many_as_the_cluster_was_made_with(
    url: str, nats_book: JetStreamCluster
) -> None:
    new = nats_book.create(new_of())
    other = JetStreamCluster(url, replicas_count=3)
    with pytest.raises(StreamRefused, match="already, with --replicas 1"):
        other.create(new_of())
    other.close()
    unsaid = JetStreamCluster(url)
    assert unsaid.create(new_of()) == new
    unsaid.close()


def test_copies_that_a_single_server_cannot_have_are_refused(url: str) -> None:
    book = JetStreamCluster(url)
    with pytest.raises(StreamRefused, match="For a single server, give --replicas 1"):
        book.create(new_of())
    assert book.description() is None
    book.close()


def test_the_bucket_keeps_what_is_newest_of_each_key_and_forever(
    url: str, nats_book: JetStreamCluster, connection: JetStreamConnection
) -> None:
    nats_book.create(new_of())
    for number in range(5):
        nats_book.note_member("a", "http://a", f"1.0.{number}")

    info = connection.api(f"STREAM.INFO.KV_{_bucket(url)}")

    assert info["state"]["messages"] == 3, "description, whole, and the node"
    config = info["config"]
    assert (config["storage"], config["max_age"], config["max_bytes"]) == ("file", 0, -1)
    assert config["max_msgs_per_subject"] == 1
    assert config["deny_delete"] is True
    assert config["allow_direct"] is False


def test_a_bucket_that_forgets_is_refused(
    url: str, nats_book: JetStreamCluster, connection: JetStreamConnection
) -> None:
    nats_book.create(new_of())
    name = f"KV_{_bucket(url)}"
    config = connection.api(f"STREAM.INFO.{name}")["config"]
    connection.api(f"STREAM.UPDATE.{name}", {**config, "max_age": 3_600_000_000_000})

    with pytest.raises(StreamRefused, match="max_age 3600000000000, and 0 is needed"):
        nats_book.description()


def test_an_owner_that_notes_itself_late_is_not_noted(
    monkeypatch: pytest.MonkeyPatch, url: str, nats_book: JetStreamCluster
) -> None:
    """Between its look and its write, the next owner has noted itself."""
    nats_book.create(new_of())
    other = jetstream_book(url)
    stream = JetStreamStream(url, 0)
    for epoch in (1, 2):
        assert stream.append(epoch, epoch, b"claim", is_claim=True)
    stream.close()
    write = nats_book._notes.write

    def write_late(key: str, body: bytes, revision: int | None = None) -> int:
        monkeypatch.setattr(nats_book._notes, "write", write)
        other.note_owner(0, "b", 2, 20)
        return write(key, body, revision)

    monkeypatch.setattr(nats_book._notes, "write", write_late)
    nats_book.note_owner(0, "a", 1, 10)

    assert nats_book.groups()[0].node == "b"
    other.close()


def _soon(ask: Callable[[], Answer]) -> Answer:
    """Ask again until there is an answer: on a busy machine the first may come too late, too."""
    ends_s = time.monotonic() + 60
    while True:
        try:
            return ask()
        except StreamUnreachable:
            assert time.monotonic() < ends_s


def test_a_database_that_is_lost_without_a_word_is_looked_for_again(
    postgres_server_of_session: PostgresServer,
) -> None:
    """It was waited for for a minute, also by nodes that it had come back to in the meantime."""
    url = empty_database(postgres_server_of_session)
    book = PostgresCluster(url, answer_limit_ms=300)
    book.create(new_of())
    with postgres_server_of_session.halted():
        begun_s = time.monotonic()
        with pytest.raises(StreamUnreachable):
            book.look()
        assert time.monotonic() < begun_s + CREATION_LIMIT_MS / 2000
    assert not _soon(book.look).holders
    book.close()
    assert PostgresCluster(url)._connection._answer_limit_s == STREAM_ANSWER_LIMIT_MS / 1000


def test_what_was_shown_of_a_group_is_unreachable_when_nats_is(
    nats_server_of_session: NatsServer, url: str
) -> None:
    book = JetStreamCluster(url, replicas_count=1, answer_limit_ms=300)
    book.create(new_of())
    with nats_server_of_session.halted(), pytest.raises(StreamUnreachable):
        book.members()
    assert _soon(book.members) == []
    keeping = JetStreamKeeping(url, 0)
    assert keeping.snapshot() is None
    keeping.close()
    book.close()
