"""The ordered store: the real one and its twin do the same, and both keep true digests."""

import errno
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twins.memory_store import MemoryStore
from troth.persistence import process_memory
from troth.persistence.checkpoints import digests
from troth.persistence.checkpoints.port import Rows, Store, Write
from troth.persistence.checkpoints.store import (
    DATA_NAME,
    LOCK_NAME,
    MAP_BYTES,
    MAP_BYTES_SMALLEST,
    LmdbStore,
    map_bytes,
)
from troth.persistence.errors import CheckpointDamaged, CheckpointFailed

TABLES = ("a", "b")
END = b"\xff" * 512
tables = st.sampled_from(TABLES)


def stretched(least: int, most: int) -> st.SearchStrategy[bytes]:
    """Return long values made of little that is chosen: hypothesis has a limit to that."""
    return st.builds(
        lambda start, size: start.ljust(size), st.binary(max_size=9), st.integers(least, most)
    )


keys = st.binary(min_size=1, max_size=4) | stretched(500, 511)
values = st.binary(max_size=90) | stretched(0, 9000)
several = st.lists(st.tuples(keys, values), min_size=1)
writes = st.lists(
    st.tuples(tables, keys, st.none() | values)
    | st.builds(lambda table, some: Rows(table, *zip(*some, strict=True)), tables, several)
)


@pytest.fixture(params=["lmdb", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each kind of store."""
    made: Store = LmdbStore(tmp_path / "s", TABLES) if request.param == "lmdb" else MemoryStore()
    yield made
    made.close()


def contents(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    """All rows, digests too."""
    view = store.view()
    found = {table: list(view.scan(table, b"", END)) for table in (*TABLES, digests.TABLE)}
    view.close()
    return found


def verify(store: Store) -> int:
    """Compare the store with its digests."""
    view = store.view()
    try:
        return digests.verify(view, TABLES, lambda: None)
    finally:
        view.close()


def test_an_empty_store_has_nothing(store: Store, tmp_path: Path) -> None:
    """Opening and reading makes no files."""
    assert contents(store) == {"a": [], "b": [], digests.TABLE: []}
    assert store.size_bytes() == 0
    assert list(tmp_path.iterdir()) == []
    store.release_memory()


def test_a_snapshot_shows_one_commit(store: Store) -> None:
    """What is committed later is in later snapshots only; ranges stop before their end."""
    store.commit([("a", b"1", b"one"), ("a", b"3", b"three"), ("b", b"1", b"other")])
    before = store.view()
    store.commit([("a", b"1", None), ("a", b"2", b"two"), ("a", b"3", b"3"), ("b", b"9", None)])
    after = store.view()
    assert list(before.scan("a", b"", END)) == [(b"1", b"one"), (b"3", b"three")]
    assert list(after.scan("a", b"", END)) == [(b"2", b"two"), (b"3", b"3")]
    assert list(after.scan("a", b"2", b"3")) == [(b"2", b"two")]
    assert list(after.scan("a", b"4", END)) == []
    assert (before.get("a", b"1"), after.get("a", b"1")) == (b"one", None)
    before.release_pages()
    assert before.get("b", b"1") == b"other"
    for view in (before, after, after):
        view.close()
    store.release_memory()
    assert verify(store) == 3


def test_memory_is_kept_while_somebody_reads(tmp_path: Path) -> None:
    """An open view outlives a release of memory; reads go on after it."""
    store = LmdbStore(tmp_path / "s", TABLES)
    store.commit([("a", b"%d" % number, bytes(2000)) for number in range(2000)])
    view = store.view()
    store.release_memory()
    store.release_pages()
    assert len(list(view.scan("a", b"", END))) == 2000
    view.close()
    store.release_memory()
    assert verify(store) == 2000
    store.close()
    store.close()
    assert not (tmp_path / "s" / LOCK_NAME).exists()


def mapped_bytes(path: Path) -> int:
    """How much of a file this process has in memory."""
    found, is_of_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_of_file = line.endswith(str(path))
        elif is_of_file and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say")
def test_what_was_looked_at_in_a_store_that_another_process_writes_is_given_back(
    tmp_path: Path,
) -> None:
    """It was 23 MB after a minute of checkpoints, each with a look at a few pages that are new."""
    path = tmp_path.resolve() / "s"
    store = LmdbStore(path, TABLES)
    store.commit([("a", b"%d" % number, bytes(2000)) for number in range(2000)])
    store.close()
    store = LmdbStore(path, TABLES)
    view = store.view()
    assert len(list(view.scan("a", b"", END))) == 2000
    view.close()
    assert mapped_bytes(path / DATA_NAME) > 4_000_000
    store.release_memory()
    assert mapped_bytes(path / DATA_NAME) == 0
    assert verify(store) == 2000
    store.close()


@settings(max_examples=60, deadline=None)
@given(commits=st.lists(writes, max_size=5))
def test_the_twin_does_the_same(
    commits: list[list[Write]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any commits both stores hold the same rows and the same digests, which are true."""
    real, twin = LmdbStore(tmp_path_factory.mktemp("s"), TABLES), MemoryStore()
    for commit in commits:
        real.commit(commit)
        twin.commit(commit)
        assert contents(real) == contents(twin)
        assert verify(real) == verify(twin) == sum(len(contents(twin)[table]) for table in TABLES)
    real.close()


def test_a_failed_commit_changes_nothing() -> None:
    """Not even a row of it."""
    store = MemoryStore()
    store.commit([("a", b"1", b"one")])
    before = contents(store)
    store.fail_next = True
    with pytest.raises(CheckpointFailed, match="asked to"):
        store.commit([("a", b"1", None), ("b", b"2", b"two")])
    assert contents(store) == before
    assert verify(store) == 1


@pytest.mark.parametrize("change", ["lost", "changed", "added", "moved"])
def test_a_digest_notices_every_kind_of_change(change: str) -> None:
    """A row that is gone, is another, was never written, or stands under another's key."""
    store = MemoryStore()
    store.commit([("a", b"1", b"one"), ("a", b"2", b"two")])
    rows = store.tables["a"]
    if change == "lost":
        del rows[b"2"]
    elif change == "changed":
        rows[b"2"] = b"twO"
    elif change == "added":
        rows[b"3"] = b""
    else:
        rows[b"1"], rows[b"2"] = rows[b"2"], rows[b"1"]
    with pytest.raises(CheckpointDamaged, match="table a"):
        verify(store)


def test_a_digest_that_is_none_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    view = MemoryStore().view()
    monkeypatch.setattr(type(view), "get", lambda *_: b"short")

    with pytest.raises(CheckpointDamaged, match="the stored digest of a has 5 bytes, not 16"):
        digests.read(view, "a")


def test_verifying_pauses_and_can_be_ended() -> None:
    """`pause` comes after each slice, and what it raises ends the reading."""
    store = MemoryStore()
    store.commit([("a", b"%06d" % number, b"") for number in range(2 * digests.SLICE_COUNT)])
    pauses: list[None] = []
    view = store.view()
    assert digests.verify(view, TABLES, lambda: pauses.append(None)) == 4000
    assert len(pauses) == 2

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digests.verify(view, TABLES, stop)


def test_the_real_store_survives_closing(tmp_path: Path) -> None:
    """What was committed is there after opening again, and more commits keep the digests true."""
    store = LmdbStore(tmp_path / "s", TABLES)
    store.commit([("a", b"1", b"one"), ("b", b"1", b"x")])
    store.close()
    store = LmdbStore(tmp_path / "s", TABLES)
    store.commit([("a", b"2", b"two"), ("b", b"1", None)])
    assert contents(store)["a"] == [(b"1", b"one"), (b"2", b"two")]
    assert verify(store) == 2
    assert (tmp_path / "s" / DATA_NAME).stat().st_mode & 0o077 == 0, "nobody else may read it"
    assert store.size_bytes() > 0
    store.close()


@pytest.mark.parametrize("content", [b"nonsense" * 2000, bytes(8192)])
def test_what_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    """With a clear word, and without a change."""
    (tmp_path / DATA_NAME).write_bytes(content)
    with pytest.raises(CheckpointDamaged, match="it is not a store"):
        LmdbStore(tmp_path, TABLES)
    assert (tmp_path / DATA_NAME).read_bytes() == content


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    """The message names the place."""
    (tmp_path / "s").write_bytes(b"")
    store = LmdbStore(tmp_path / "s", TABLES)
    with pytest.raises(CheckpointFailed, match="cannot be opened"):
        store.commit([("a", b"1", b"one")])


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from troth.persistence.errors import CheckpointFailed
    from troth.persistence.checkpoints.store import LmdbStore
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = LmdbStore(Path(sys.argv[1]), ("a", "b"))
    store.commit([("a", b"1", b"one")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        store.commit([("a", b"%d" % number, bytes(1000)) for number in range(10_000)])
    except CheckpointFailed as failure:
        print(failure)
"""


def test_a_file_that_may_not_grow_fails_the_commit_and_keeps_the_last(tmp_path: Path) -> None:
    """The kernel refuses to write beyond a limit, as on a full disk; then the limit is gone."""
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "s")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert "cannot be written" in answer.stdout
    assert "Nothing acknowledged was lost" in answer.stdout
    store = LmdbStore(tmp_path / "s", TABLES)
    assert contents(store)["a"] == [(b"1", b"one")]
    store.commit([("a", b"2", bytes(1000))])
    assert verify(store) == 2
    store.close()


def test_a_small_address_space_gets_a_small_map(tmp_path: Path) -> None:
    """Where a terabyte cannot be mapped, less is."""
    script = (
        "import resource, sys; from pathlib import Path;"
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30));"
        "from troth.persistence.checkpoints.store import LmdbStore;"
        "store = LmdbStore(Path(sys.argv[1]), ('a',)); store.commit([('a', b'1', b'one')]);"
        "print(store.view().get('a', b'1'))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert answer.stdout == "b'one'\n"


WITH_LITTLE = """
import os, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
from troth.persistence.checkpoints.store import DATA_NAME, LmdbStore, map_bytes
from troth.persistence.process_memory import address_space_headroom_bytes
store = LmdbStore(Path(sys.argv[1]), ("a",))
left_bytes = address_space_headroom_bytes()
store.prepare()
taken_bytes = left_bytes - address_space_headroom_bytes()
assert (64 << 20) <= taken_bytes <= left_bytes // 2, (taken_bytes, left_bytes)
value = bytes(1 << 20)
def rows():
    yield "a", b"1", b"one"
    kept = []
    while True:
        kept.append(bytes(4 << 20))  # until there is no more
try:
    store.commit(rows())
except MemoryError:
    pass
else:
    raise AssertionError("there was memory")
store.commit([("a", b"2", b"two")])
view = store.view()
assert (view.get("a", b"1"), view.get("a", b"2")) == (None, b"two")
view.close()
hoard = []
try:
    while True:
        hoard.append(bytes(4 << 20))
except MemoryError:
    pass
store.release_memory()  # which must not give up what it could not get again
view = store.view()
assert view.get("a", b"2") == b"two"
"""


def test_a_store_keeps_its_map_when_memory_runs_out(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", WITH_LITTLE, str(tmp_path / "s")],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )


READ_ALL = """
    import sys
    from pathlib import Path
    from troth.persistence.checkpoints import digests
    from troth.persistence.errors import PersistenceError
    from troth.persistence.checkpoints.store import LmdbStore
    try:
        store = LmdbStore(Path(sys.argv[1]), ("a", "b"))
        view = store.view()
        digests.verify(view, ("a", "b"), lambda: None)
        print(sorted(view.scan("a", b"", b"\\xff" * 512)) == eval(sys.argv[2]))
    except PersistenceError:
        print("refused")
"""


def flip(random: Random, content: bytearray) -> None:
    """Flip one bit, wherever."""
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def zero_page(random: Random, content: bytearray) -> None:
    """Lose a whole page, as when a write never reached the disk."""
    place = random.randrange(len(content) // 4096) * 4096
    content[place : place + 4096] = bytes(4096)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, zero_page])
def test_damage_is_refused_or_harmless(
    tmp_path: Path, damage: Callable[[Random, bytearray], None]
) -> None:
    """Damage anywhere in the file leads to a refusal, to a dead process, or to intact rows."""
    seed = 7
    random = Random(seed)
    store = LmdbStore(tmp_path / "s", TABLES)
    rows = [(b"%04d" % number, bytes([number % 256]) * 60) for number in range(300)]
    store.commit([("a", key, value) for key, value in rows])
    store.close()
    content = (tmp_path / "s" / DATA_NAME).read_bytes()
    outcomes = set()
    for _ in range(12):
        damaged = bytearray(content)
        damage(random, damaged)
        (tmp_path / "s" / DATA_NAME).write_bytes(damaged)
        # In a process of its own: LMDB trusts its file, and nonsense in it may end the process.
        code = textwrap.dedent(READ_ALL)
        answer = subprocess.run(
            [
                sys.executable,
                "-c",
                code,
                str(tmp_path / "s"),
                "[(b'%04d' % n, bytes([n % 256]) * 60) for n in range(300)]",
            ],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )
        died = answer.returncode < 0
        assert died or answer.stdout in ("refused\n", "True\n"), f"seed {seed}: {answer}"
        outcomes.add("died" if died else answer.stdout.strip())
    assert "refused" in outcomes, f"seed {seed}"


def test_a_lock_file_that_cannot_be_removed_hinders_no_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is read-only by then; the file stays, and the next store is opened with it."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = LmdbStore(tmp_path, TABLES)
    store.commit([("a", b"key", b"value")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        store.close()
    assert (tmp_path / LOCK_NAME).exists()

    again = LmdbStore(tmp_path, TABLES)
    assert contents(again)["a"] == [(b"key", b"value")]
    again.close()
    assert not (tmp_path / LOCK_NAME).exists()


_READER = """
import sys, time
from pathlib import Path
from troth.persistence.checkpoints.store import LmdbStore
view = LmdbStore(Path(sys.argv[1]), ("a", "b")).view()
print(view.get("a", b"key"), flush=True)
time.sleep(600)
"""


def test_a_process_that_was_killed_while_it_read_keeps_no_pages(tmp_path: Path) -> None:
    """The next process of a restart reads what another one writes, and may be killed."""
    store = LmdbStore(tmp_path, TABLES)
    store.keeps_lock = True
    store.commit([("a", b"key", b"value")])
    with subprocess.Popen(
        [sys.executable, "-c", _READER, str(tmp_path)], stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"b'value'\n"
        store.commit([("a", b"key", b"another")])
        environment = store._environment
        assert environment is not None
        assert str(reader.pid) in environment.readers()
        reader.kill()
        reader.wait()
    store.commit([("a", b"key", b"one more")])
    assert str(reader.pid) not in environment.readers()
    store.close()
    assert (tmp_path / LOCK_NAME).exists(), "another process has it open"


def test_a_scan_back_is_a_scan_the_other_way_round(store: Store) -> None:
    """Whatever the ends of the range are, keys or between keys."""
    assert list(store.view().scan_back("a", b"", END)) == []
    names = [b"b", b"d", b"dd", b"f\xff"]
    store.commit([("a", name, b"row of " + name) for name in names])
    view = store.view()
    for start in (b"", b"a", *names, b"e", END):
        for stop in (b"", b"a", *names, b"e", b"z", END):
            forward = list(view.scan("a", start, stop))
            assert list(view.scan_back("a", start, stop)) == forward[::-1], (start, stop)
    view.close()


def test_a_store_takes_a_third_of_a_limited_address_space_and_less_if_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It maps that before the server serves, and keeps it: later there may be too little."""
    left_bytes = 9 * MAP_BYTES_SMALLEST * 16
    monkeypatch.setattr(process_memory, "address_space_headroom_bytes", lambda: left_bytes)
    asked: list[int] = []
    opened = lmdb.open

    def refuse(path: str, **options: Any) -> lmdb.Environment:
        asked.append(options["map_size"])
        if len(asked) == 1:
            raise lmdb.MemoryError("asked to")
        return opened(path, **options)

    monkeypatch.setattr(lmdb, "open", refuse)
    store = LmdbStore(tmp_path / "s", ("a",))
    store.prepare()
    assert asked == [left_bytes // 3, left_bytes // 12]
    store.commit([("a", b"1", b"one")])
    store.release_memory()
    store.prepare()
    assert len(asked) == 2, "it was never let go"
    store.close()

    def never(path: str, **options: Any) -> lmdb.Environment:
        raise lmdb.MemoryError("asked to")

    monkeypatch.setattr(lmdb, "open", never)
    with pytest.raises(CheckpointFailed, match="cannot be opened"):
        LmdbStore(tmp_path / "other", ("a",)).prepare()


def test_a_store_that_is_not_limited_is_opened_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_memory, "address_space_headroom_bytes", lambda: None)
    store = LmdbStore(tmp_path / "s", ("a",))
    store.prepare()
    assert not (tmp_path / "s" / DATA_NAME).exists()
    store.commit([("a", b"1", b"one")])
    assert map_bytes() == MAP_BYTES
    store.close()
