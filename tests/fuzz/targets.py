"""The parsers that are fuzzed, and what must hold for any input of each.

A check says whether the input was accepted. It lets out everything but the errors that the parser
documents. Most are the properties of the parsers' own tests, so they are written there.
"""

# ruff: noqa: PT017 — whether an input is refused is up to the input.

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import h11
import msgspec
import trio

from tests.core.grammar.test_packages import agreed
from tests.core.test_addresses import can_be_sent_to
from tests.core.test_cron import fires_or_says_why_not
from tests.http.sockets.test_lane_parsing import means_the_same_to_h11
from tests.http.wire.test_bodies import BODIES, CLOSE, QUICK, outcome
from tests.http.wire.test_cursors import SECRET
from tests.http.wire.test_decoding_properties import ROUTER
from tests.node.test_node_parts import frames_read
from tests.persistence.lives import open_directory, segment_paths
from tests.persistence.test_damage import written
from tests.twins.simulated_files import SimulatedFiles
from troth.core import records
from troth.core.grammar import addresses
from troth.core.json_errors import UNREADABLE_JSON
from troth.http.documents.table import API_ENDPOINTS
from troth.http.wire import decoding
from troth.http.wire.bodies import BodyDecoder
from troth.http.wire.cursors import decode_cursor, encode_cursor, sign_payload
from troth.http.wire.errors import ApiError
from troth.http.wire.fields import RequestLimits
from troth.node import client as node_http
from troth.node.errors import NotReached
from troth.persistence.checkpoints import rows
from troth.persistence.errors import CheckpointDamaged, DataDirectoryError
from troth.persistence.snapshots.snapshot_file import SnapshotError, SnapshotReader

from .questions import QUESTION_TARGETS
from .running import Target
from .sealing import packed_snapshot, sealed_segment


def _text(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


# --- what clients send ----------------------------------------------------------------------------


def check_target(content: bytes) -> bool:
    """Path and query of a request: matched and read, or refused with one of three statuses."""
    path, _, query = content.partition(b"?")
    try:
        ROUTER.match("GET", b"/" + path)
        decoding.query_parameters(query)
    except ApiError as error:
        assert error.code.status in (400, 404, 405)
        return False
    return True


_OTHER_BODIES: Final = {row.body for row in API_ENDPOINTS if row.body} - set(BODIES)
_DECODERS: Final = [
    BodyDecoder(body, RequestLimits())
    for body in sorted(_OTHER_BODIES, key=lambda kind: kind.__name__)
]


def check_bodies(content: bytes) -> bool:
    """JSON as each kind of body: refused with 400, or accepted, and again when it is written out.

    Where there are a quick decoder and a close one, they agree.
    """
    accepted = False
    for decoder in _DECODERS:
        try:
            body = decoder.decode(content)
        except ApiError as error:
            assert error.code.status == 400
            assert error.problems
            continue
        accepted = True
        written = msgspec.json.decode(msgspec.json.encode(body))
        given = {name: value for name, value in written.items() if value is not None}
        assert decoder.decode(msgspec.json.encode(given)) == body
    for kind in BODIES:
        found = outcome(QUICK[kind], content)
        assert found == outcome(CLOSE[kind], content), kind.__name__
        if isinstance(found, dict):
            accepted = True
            again = msgspec.json.encode(QUICK[kind].decode(content))
            assert outcome(QUICK[kind], again) == found, kind.__name__
    return accepted


def check_cron(content: bytes) -> bool:
    """A cron expression: has a next time, or a reason why it is none."""
    return fires_or_says_why_not(_text(content))


def check_receiver(content: bytes) -> bool:
    """A receiver, as JSON or as the text of a tag: has an address or a reason."""
    text = _text(content)
    routed = addresses.route(text)
    try:
        given = msgspec.json.decode(content)
    except UNREADABLE_JSON:
        given = text  # no JSON: then it is an address as it stands
    accepted = can_be_sent_to(given)
    return (routed is not None and can_be_sent_to(routed)) or accepted


def check_cursor(content: bytes) -> bool:
    """A cursor as it is, and as one that this server has signed, perhaps in an older version."""
    accepted = False
    for cursor in (_text(content), sign_payload(content, SECRET)):
        try:
            search = decode_cursor(cursor, "promises", SECRET)
        except ApiError as error:
            assert error.code.status == 400
            continue
        accepted = True
        assert decode_cursor(encode_cursor(search, SECRET), "promises", SECRET) == search
    return accepted


@functools.cache
def _scratch() -> Path:
    path = Path(tempfile.mkdtemp(prefix="troth-fuzz-"))
    atexit.register(shutil.rmtree, path)
    return path


def check_package(content: bytes) -> bool:
    """A function's zip archive: checking and unpacking agree, and stay where they belong."""
    return agreed(content, _scratch() / "archive") is not None


# --- what nodes and functions send ----------------------------------------------------------------


def check_frames(content: bytes) -> bool:
    """What a function's process writes to its node."""
    return frames_read(content) is not None


class _Stream:
    """A connection on which bytes arrive in two pieces, and then the end."""

    def __init__(self, content: bytes) -> None:
        half = len(content) // 2
        self._events: list[h11.Event] = [
            *(h11.Data(data=part) for part in (content[:half], content[half:]) if part),
            h11.EndOfMessage(),
        ]

    async def next_event(self) -> h11.Event:
        """What arrives next."""
        await trio.lowlevel.checkpoint()
        return self._events.pop(0)


def check_events(content: bytes) -> bool:
    """The server's stream to a node: events, until it ends or cannot be read."""

    async def read() -> list[bytes]:
        events: list[bytes] = []
        stream = node_http._events(_Stream(content), 60.0)  # type: ignore[arg-type]  # enough of one
        with contextlib.suppress(NotReached):
            while True:
                events.append(await anext(stream))
        return events

    found = trio.run(read)
    assert all(b"\n" not in event for event in found)
    again = b"".join(b"data: " + event + b"\n" for event in found)
    return found == [line[5:].strip() for line in again.split(b"\n")[:-1]] and bool(found)


# --- what is read back from the disk --------------------------------------------------------------


@functools.cache
def _log() -> tuple[dict[str, bytes | None], list[tuple[int, object]]]:
    files, acknowledged = written(sealed=True)
    return files.contents(), list(acknowledged)


def check_log(content: bytes) -> bool:
    """The last segment of a log, with the checksums it has and with those that would be right.

    Opening refuses it and changes nothing, or finds a log that is found again. With its own
    checksums, that log is the one that was written, perhaps cut.
    """
    _, acknowledged = _log()
    found = _recovered(content)
    assert found is None or found == acknowledged[: len(found)]
    sealed = _recovered(sealed_segment(content))
    return found is not None or sealed is not None


def _recovered(content: bytes) -> list[tuple[int, object]] | None:
    files, _ = written(sealed=True)
    path = segment_paths(files)[-1]
    size_bytes = files.size(path)
    files.overwrite(path, 0, content[:size_bytes].ljust(size_bytes, b"\0"))
    before = files.contents()
    try:
        found = _read_log(files)
    except DataDirectoryError:
        assert files.contents() == before
        return None
    assert _read_log(files) == found
    return found


def _read_log(files: SimulatedFiles) -> list[tuple[int, object]]:
    files.end_process()
    directory = open_directory(files)
    found: list[tuple[int, object]] = list(directory.recover())
    directory.close()
    return found


def check_record(content: bytes) -> bool:
    """A record of the log: read as what is written again, or refused."""
    try:
        record = records.decode(content)
    except UNREADABLE_JSON:
        return False
    assert records.decode(records.encode(record)) == record
    return True


_ROWS: Final = rows.RowDecoder()


def check_row(content: bytes) -> bool:
    """A row of a checkpoint, as each kind of row, with the checksum that belongs to it."""
    accepted = False
    for table, decode in (
        (rows.CALLBACKS, _ROWS.callback),
        (rows.SCHEDULES, _ROWS.schedule),
        (rows.LOCKS, _ROWS.lock),
        (rows.OUTBOX, _ROWS.message),
        (rows.HEADERS, _ROWS.header),
        (rows.ENTRIES, _ROWS.entry),
        (rows.EXECUTIONS, _ROWS.execution),
        (rows.USAGE, _ROWS.usage),
        (rows.WORKFLOWS, _ROWS.workflow),
        (rows.AWAITS, _ROWS.awaiting),
        (rows.LISTENERS, _ROWS.listener),
        (rows.PROMISES, _ROWS.promise_head),
        (rows.PROMISES, functools.partial(_ROWS.promise, rows.PROMISES)),
        (rows.TASKS, functools.partial(_ROWS.task, rows.TASKS)),
    ):
        try:
            entity = decode(b"k", rows.seal(table, b"k", content))
        except CheckpointDamaged:
            continue
        accepted = True
        assert decode(b"k", rows.encode(table, b"k", entity)) == entity
    return accepted


def check_snapshot(content: bytes) -> bool:
    """A snapshot file, its blocks not compressed yet: read to its end, or refused."""
    path = _scratch() / "a.snapshot"
    for whole in (content, packed_snapshot(content)):
        path.write_bytes(whole)
        with contextlib.suppress(SnapshotError), SnapshotReader(path) as reader:
            counts = [len(part.rows) + len(part.batches) for part in reader.parts()]
            assert reader.end is not None
            assert sum(counts) == sum(reader.end.rows.values()) + reader.end.batches_count
            return True
    return False


# --- all of them ----------------------------------------------------------------------------------

_JSON: Final = (
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"9223372036854775808",
    b'"\\ud800"',
    b"{}",
    b"[",
)
_STORE: Final = ("persistence/checkpoints/rows.py", "core/records.py")


def _targets() -> Iterator[Target]:
    yield Target(
        "lane",
        means_the_same_to_h11,
        (b"\r\n", b"\r\n\r\n", b"Content-Length: 2", b"Transfer-Encoding: chunked", b" HTTP/1.1"),
        ("http/sockets/lane_parsing.py",),
        20_000,
    )
    yield Target(
        "target",
        check_target,
        (b"%2f", b"%00", b"%", b"/", b"//", b"?", b"&", b"=", b"tags[a]=", b"/promises/"),
        ("http/api/router.py", "http/wire/decoding.py"),
        15_000,
    )
    yield Target(
        "bodies",
        check_bodies,
        (*_JSON, b'"id"', b'"timeout"', b'"recv"', b'"param"', b'"data"', b'"tags"', b'"\xff"'),
        ("http/wire/bodies.py", "http/wire/fields.py"),
        1_200,
    )
    yield Target(
        "cron",
        check_cron,
        (b"*", b"/", b"-", b",", b"@every ", b"1h", b"TZ=UTC ", b"L", b"#", b"jan", b"60", b"?"),
        ("core/grammar/cron.py", "core/grammar/zones.py"),
        8_000,
    )
    yield Target(
        "receiver",
        check_receiver,
        (
            *_JSON,
            b"poll://",
            b"http://",
            b"any@",
            b"[::1]",
            b":65536",
            b"%zz",
            b'"headers"',
            b"xn--",
        ),
        ("core/grammar/addresses.py",),
        4_000,
    )
    yield Target(
        "cursor",
        check_cursor,
        (*_JSON, b".", b"=", b'"promises"'),
        ("http/wire/cursors.py",),
        8_000,
    )
    yield from QUESTION_TARGETS
    yield Target(
        "archive",
        check_package,
        (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"../", b"handler.py"),
        ("core/grammar/zip_format.py", "core/grammar/packages.py", "node/unpacking.py"),
        250,
    )
    yield Target(
        "frames",
        check_frames,
        (*_JSON, b"R\0\0\0", b"P\0\0\0\x02", b"E\0\0\0", b'"status"', b'"headers"'),
        ("node/frames.py",),
        15_000,
    )
    yield Target(
        "events",
        check_events,
        (b"\n", b"\r", b"data:", b": ", b"event:"),
        ("node/client.py",),
        1_500,
    )
    yield Target(
        "log",
        check_log,
        (b"\xffTB\xf8", b"\xffTROTHL\xfe"),
        ("persistence/wal/recovery.py", "persistence/wal/frames.py"),
        150,
    )
    yield Target("record", check_record, (*_JSON, b'"promise-created/1"', b"/2"), _STORE, 30_000)
    yield Target("row", check_row, _JSON, _STORE, 4_000)
    yield Target(
        "snapshot",
        check_snapshot,
        (*_JSON, b'"tables"'),
        ("persistence/snapshots/snapshot_file.py",),
        150,
    )


TARGETS: Final = {target.name: target for target in _targets()}
