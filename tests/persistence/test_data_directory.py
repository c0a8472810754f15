"""Opening, making and refusing a data directory."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.twins.simulated_files import SimulatedCrash, SimulatedFiles
from troth.persistence.data_directory import DataDirectory, open_identity
from troth.persistence.errors import (
    DataDirectoryError,
    DataDirectoryLocked,
    DataDirectoryUnreadable,
    DataDirectoryUnwritable,
    GroupsMismatch,
    LogDamaged,
    ShardCountMismatch,
    UnknownFormatVersion,
)
from troth.persistence.files import RealFiles
from troth.persistence.identity import decode_identity
from troth.persistence.wal.log import LogRecord

from .lives import PATH, constant_bytes, open_directory, opened, recover
from .reference import crc32c

IDENTITY_PATH = f"{PATH}/troth.json"


def made(shard_count: int | None = None) -> SimulatedFiles:
    """Return a disk with a directory that holds one record."""
    files = SimulatedFiles()
    directory = open_directory(files, shard_count)
    list(directory.recover())
    directory.log.append([LogRecord(0, 1, b"one")], 1)
    directory.close()
    return files


def refused(
    files: SimulatedFiles, error: type[DataDirectoryError], shards: int | None = None
) -> str:
    """Check that opening refuses and changes nothing; return its message."""
    before = files.contents()
    with pytest.raises(error) as caught:
        open_directory(files, shards)
    assert files.contents() == before
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "Nothing was changed." in message
    return message


def edited(files: SimulatedFiles, content: bytes) -> None:
    """Put other content into `troth.json`."""
    files.remove(IDENTITY_PATH)
    file = files.create(IDENTITY_PATH)
    file.write_at(0, content)
    file.sync()


def test_identity_bytes() -> None:
    """`troth.json` is exactly as documented, and has been since format version 2."""
    content = made().read(IDENTITY_PATH)

    canonical = (
        b'{"created_at_ms":1700000000000,"data_id":"000102030405060708090a0b0c0d0e0f",'
        b'"format_version":2,"group_shards":[16],"groups":1,"placement":"origin/1",'
        b'"secret":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}'
    )
    assert content.decode() == (
        "{\n"
        '  "format_version": 2,\n'
        '  "data_id": "000102030405060708090a0b0c0d0e0f",\n'
        '  "groups": 1,\n'
        '  "group_shards": [\n'
        "    16\n"
        "  ],\n"
        '  "placement": "origin/1",\n'
        '  "created_at_ms": 1700000000000,\n'
        '  "secret": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",\n'
        f'  "checksum": "{crc32c(canonical):08x}"\n'
        "}\n"
    )


def test_what_is_made_is_read_again() -> None:
    """Identity, secret and shard count stay what they were when the directory was made."""
    files = made(shard_count=5)

    directory = open_directory(files, shard_count=5)

    assert directory.shard_count == 5
    assert directory.secret == constant_bytes(32)
    assert directory.identity.created_at_ms == 1_700_000_000_000
    assert directory.identity.data_id == constant_bytes(16)


def test_the_epoch_grows_with_each_opening() -> None:
    """Also without any record between, and although such segments replace each other."""
    files = made()
    epochs = []
    for _ in range(3):
        with opened(files) as log:
            epochs.append(log.statistics().epoch)

    assert epochs == [3, 4, 5]
    assert len(files.list_names(f"{PATH}/groups/0/log")) == 2


def test_report() -> None:
    """The report says what was found."""
    directory = open_directory(made())
    records = list(directory.recover())

    assert records == [(1, LogRecord(0, 1, b"one"))]
    report = directory.report
    assert (report.records_count, report.segments_count, report.next_sequence) == (1, 1, 2)
    assert (report.torn_bytes_cut, report.torn_file, report.torn_offset) == (0, None, None)
    assert report.bytes_read == 64 + 40 + 16 + 3 + 40


def test_recovery_from_a_sequence() -> None:
    """What a checkpoint covers is not yielded; what is trimmed may only then be missing."""
    files = SimulatedFiles()
    with opened(files) as log:
        for number in range(1, 7):
            log.append([LogRecord(0, number, b"x" * 500)], number)
        log.trim(4)
    first = int(files.list_names(f"{PATH}/groups/0/log")[0].removesuffix(".log"))

    assert 1 < first <= 4
    assert [sequence for sequence, _ in recover(files, 4)] == [4, 5, 6]
    with pytest.raises(LogDamaged, match="the earlier records, from 1 on, are missing"):
        recover(files, 1)


def test_a_second_opening_is_refused() -> None:
    """Only one holder at a time; after it has closed, the next may open."""
    files = made()
    first = open_directory(files)

    assert f"{PATH} is in use by another process" in refused(files, DataDirectoryLocked)

    first.close()
    open_directory(files).close()


def test_another_shard_count_is_refused() -> None:
    """Ids would be looked for in the wrong shards."""
    message = refused(made(shard_count=4), ShardCountMismatch, shards=8)

    assert "made with 4 shards, but 8 were asked for" in message


@pytest.mark.parametrize("shard_count", [0, -1, 1025])
def test_shard_count_out_of_range(shard_count: int) -> None:
    """A nonsensical number never makes a directory."""
    files = SimulatedFiles()

    with pytest.raises(ValueError, match="1 to 1024"):
        open_directory(files, shard_count)

    assert files.contents() == {}


def test_a_newer_format_is_refused() -> None:
    """A newer version may have changed everything else, so nothing else is looked at."""
    files = made()
    edited(files, b'{"format_version": 3, "else": "unknown"}')

    assert "has format version 3; this version of Troth knows 2" in refused(
        files, UnknownFormatVersion
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"format_version": "1"}',
        b'{"format_version": 0, "checksum": ""}',
        b'{"format_version": 1, "checksum": 5}',
        json.dumps({"format_version": 1, "shard_count": 8, "checksum": "00000000"}).encode(),
    ],
)
def test_a_damaged_identity_is_refused(content: bytes) -> None:
    """Whatever is in `troth.json`, it is read in full or refused."""
    files = made()
    edited(files, content)

    assert "is damaged or was edited" in refused(files, DataDirectoryUnreadable)


def test_an_edited_identity_is_refused() -> None:
    """The checksum notices a changed shard count."""
    content = made(shard_count=5).read(IDENTITY_PATH)

    assert content.count(b"    5\n") == 1
    with pytest.raises(DataDirectoryUnreadable, match="its checksum does not match"):
        decode_identity(IDENTITY_PATH, content.replace(b"    5\n", b"    6\n"))


def identity_of(**changes: object) -> bytes:
    """An identity with other fields, and the checksum of these."""
    fields = json.loads(made().read(IDENTITY_PATH)) | changes
    del fields["checksum"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({**fields, "checksum": f"{crc32c(canonical):08x}"}).encode()


def test_a_directory_of_several_groups_is_no_directory_of_one() -> None:
    """In one line that names the command."""
    files = made()
    edited(files, identity_of(groups=2, group_shards=[8, 8]))
    message = refused(files, GroupsMismatch)
    assert "has 2 groups of shards, one for each process of a server, but 1 is wanted" in message
    assert f"`troth data convert {PATH} --groups 1`" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": 2, "group_shards": [16]},
        {"groups": 0, "group_shards": []},
        {"groups": 2, "group_shards": [16, 0]},
        {"groups": 1, "group_shards": ["16"]},
        {"groups": 1025, "group_shards": [1] * 1025},
    ],
)
def test_groups_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    files = made()
    edited(files, identity_of(**changes))
    assert "is damaged or was edited" in refused(files, DataDirectoryUnreadable)


def test_a_directory_of_several_groups_has_a_log_for_each() -> None:
    files = SimulatedFiles()
    _, lock, identity = open_identity(PATH, files, 8, 3, created_at_ms=5)
    assert identity.group_shards == (3, 3, 2)
    assert [identity.shards_of(group) for group in range(3)] == [
        *(range(3), range(3, 6), range(6, 8))
    ]
    assert decode_identity(IDENTITY_PATH, files.read(IDENTITY_PATH)) == identity
    for group in range(3):
        one = DataDirectory.open_group(lock, PATH, files, group)
        assert list(one.recover()) == []
        one.log.append([LogRecord(one.shards.start, 1, b"x")], 1)
        one.log.close()
    again = [DataDirectory.open_group(lock, PATH, files, group) for group in range(3)]
    assert [next(one.recover())[1].shard for one in again] == [0, 3, 6]
    with pytest.raises(GroupsMismatch):
        DataDirectory.open_group(lock, PATH, files, 3)
    lock.close()
    _, lock, same = open_identity(PATH, files, None, 3, created_at_ms=6)
    assert same == identity
    lock.close()
    with pytest.raises(GroupsMismatch, match=r"has 3 groups .* 2 are wanted"):
        open_identity(PATH, files, None, 2, created_at_ms=6)
    files.lock(PATH).close()  # a refusal keeps no lock


def test_the_log_of_another_group_is_refused() -> None:
    """What a directory's operator has exchanged must not be taken for the group's own."""
    files = SimulatedFiles()
    _, lock, _ = open_identity(PATH, files, 8, 2, created_at_ms=5)
    one = DataDirectory.open_group(lock, PATH, files, 1)
    assert list(one.recover()) == []
    one.log.append([LogRecord(4, 1, b"x")], 1)
    one.log.close()
    for name in files.list_names(f"{PATH}/groups/0/log"):
        files.remove(f"{PATH}/groups/0/log/{name}")
    for name in files.list_names(f"{PATH}/groups/1/log"):
        files.create(f"{PATH}/groups/0/log/{name}").write_at(
            0, files.read(f"{PATH}/groups/1/log/{name}")
        )
    other = DataDirectory.open_group(lock, PATH, files, 0)
    with pytest.raises(LogDamaged, match="of shard 4, but this group has only the shards 0 to 3"):
        list(other.recover())


def test_an_unknown_placement_is_refused() -> None:
    """It would look for everything in the wrong place."""
    files = made()
    edited(files, identity_of(placement="origin/2"))
    assert "origin/2" in refused(files, DataDirectoryUnreadable)


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "log", "groups/1", "groups/0/notes.txt", "groups/0/checkpoints"),
        *("groups/0/log/notes.txt", "groups/0/log/00000000000000000002.log"),
    ],
)
def test_a_foreign_directory_is_refused(name: str) -> None:
    """A directory with anything else in it is nobody's to fill with a log."""
    files = SimulatedFiles()
    files.make_directory(PATH)
    for directory in ("groups", "groups/0", "groups/0/log"):
        files.make_directory(f"{PATH}/{directory}")
    files.create(f"{PATH}/{name}")

    assert f"holds {name} but no troth.json" in refused(files, DataDirectoryUnreadable)


def test_a_lost_identity_is_refused() -> None:
    """A log without its identity is not overwritten by a new one."""
    files = made()
    files.remove(IDENTITY_PATH)

    assert "but no troth.json" in refused(files, DataDirectoryUnreadable)


def test_a_file_in_the_place_of_the_directory_is_refused() -> None:
    """A path that is a file is left alone."""
    files = SimulatedFiles()
    files.create(PATH)

    assert "cannot be opened and locked (Not a directory)" in refused(
        files, DataDirectoryUnreadable
    )


def test_a_slash_at_the_end_makes_no_difference() -> None:
    """The new directory's name is made durable in its parent, however it is written."""
    files = SimulatedFiles()
    DataDirectory.open(f"{PATH}/", files, created_at_ms=0)

    assert files.history[:2] == [("make_directory", PATH), ("sync_directory", "/")]


def test_a_missing_parent_is_refused() -> None:
    """Only the last directory is made: a wrong path must not grow a tree."""
    with pytest.raises(DataDirectoryUnwritable, match="/a/b/c cannot be written: No such file"):
        DataDirectory.open("/a/b/c", SimulatedFiles(), created_at_ms=0)


def test_an_unreadable_identity_is_refused() -> None:
    """An error of the disk is not taken for a missing file."""
    files = made()
    files.fail("read", path_part="troth.json")

    assert "cannot be read (Input/output error)" in refused(files, DataDirectoryUnreadable)


@pytest.mark.parametrize("operation", ["create", "write_at", "sync", "rename", "sync_directory"])
def test_an_error_while_making_a_directory(operation: str) -> None:
    """What was begun is no obstacle to the next try."""
    failures_count = 0
    while True:
        files = SimulatedFiles()
        files.fail(operation, skip_count=failures_count)
        try:
            open_directory(files)
            break
        except DataDirectoryUnwritable:
            failures_count += 1
            assert recover(files) == []

    assert failures_count >= 1


@pytest.mark.parametrize("operation", ["create", "write_at", "sync", "rename", "sync_directory"])
def test_an_error_while_the_log_is_begun(operation: str) -> None:
    """Opening fails with a message; nothing is lost, and the next opening succeeds."""
    failures_count = 0
    while True:
        files = made()
        files.fail(operation, skip_count=failures_count)
        directory = open_directory(files)
        try:
            list(directory.recover())
            break
        except DataDirectoryUnwritable:
            failures_count += 1
            directory.close()
            if operation in ("create", "write_at", "sync"):
                assert files.list_names(f"{PATH}/groups/0/log") == ["00000000000000000001.log"]
            assert recover(files) == [(1, LogRecord(0, 1, b"one"))]

    assert failures_count >= 1


def test_a_refused_opening_releases_the_lock() -> None:
    """After a refusal, an opening that is right succeeds."""
    files = made(shard_count=4)
    refused(files, ShardCountMismatch, shards=8)

    assert len(recover(files)) == 1


def test_a_crash_in_every_operation_of_making_a_directory() -> None:
    """A half-made directory is made again; a made one has its log and its identity."""
    operations_count = 0
    while True:
        operations_count += 1
        files = SimulatedFiles()
        files.crash_before_operation = operations_count
        try:
            open_directory(files)
            break
        except SimulatedCrash:
            for seed in range(20):
                assert recover(files.crash(Random(f"{operations_count}/{seed}"))) == []

    assert operations_count > 10


def test_a_crash_in_every_operation_of_making_groups() -> None:
    """The same for a directory of several groups."""
    operations_count = 0
    while True:
        operations_count += 1
        files = SimulatedFiles()
        files.crash_before_operation = operations_count
        try:
            open_identity(PATH, files, 8, 3, created_at_ms=5)
            break
        except SimulatedCrash:
            for seed in range(10):
                after = files.crash(Random(f"{operations_count}/{seed}"))
                _, _, identity = open_identity(PATH, after, 8, 3, created_at_ms=5)
                assert len(after.list_names(f"{PATH}/groups")) == identity.groups_count == 3

    assert operations_count > 30


@pytest.mark.slow
def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The lock holds between processes, and ends with the process that holds it."""
    path = tmp_path / "data"
    holder = DataDirectory.open(path, RealFiles(), created_at_ms=0)
    program = (
        "import sys\n"
        "from troth.persistence.data_directory import DataDirectory\n"
        "from troth.persistence.files import RealFiles\n"
        "from troth.persistence.errors import DataDirectoryLocked\n"
        "try: DataDirectory.open(sys.argv[1], RealFiles(), created_at_ms=0)\n"
        "except DataDirectoryLocked: print('locked')\n"
        "else: print('opened')\n"
    )

    def other_process() -> str:
        command = [sys.executable, "-c", program, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert other_process() == "locked"
    holder.close()
    assert other_process() == "opened"
    DataDirectory.open(path, RealFiles(), created_at_ms=0).close()
