"""The file into which a repair puts everything that it drops from the log, before it drops it.

One JSON object a line, each with a `kind`:

* `dropped`, the first line: format, directory, damage, and where the log was cut;
* `bytes`: raw bytes of a segment (`file`, `offset`, `length`, `data` in base64); together with
  `zeros` (`file`, `offset`, `length`) they give the dropped parts of the files back, byte for byte;
* `record`: a record that could still be read, with its numbers and its fields; `body` in base64
  instead of fields if it cannot be decoded;
* `gap`: bytes that could not be understood;
* `end`, the last line: how many records and bytes there were. Without it the file is not whole.

The file has its name only when it is whole and on disk.
"""

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from troth.persistence.errors import DataDirectoryUnwritable, LogDamaged
from troth.persistence.files import File

from .log_records import read_record, record_fields, record_type
from .log_salvage import Piece, salvage
from .log_tools import LogReader, read_segment

DROPPED_FORMAT: Final = "troth-dropped/1"
UNFINISHED_SUFFIX: Final = ".unfinished"

# A multiple of 3, so that the base64 of the pieces can also be joined.
_PIECE_BYTES: Final = 48 << 10
_WRITE_BYTES: Final = 1 << 20
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was written: how many readable records, and how many bytes of the log."""

    path: str
    records_count: int
    bytes_count: int


def write_dropped(
    reader: LogReader,
    parts: Sequence[tuple[str, int]],
    damage: LogDamaged,
    next_sequence: int,
    path: str,
    written_at_ms: int,
) -> Dropped:
    """Write the parts of segments, each from an offset to its end, to a new file, durably.

    Raises `DataDirectoryUnwritable` if the disk fails or is full, then the file is not there; and
    `DataDirectoryUnreadable` or `UnknownFormatVersion` for what cannot be saved like this.
    """
    files = reader.files
    unfinished = path + UNFINISHED_SUFFIX
    try:
        if files.exists(unfinished):  # of a repair that was interrupted here
            files.remove(unfinished)
        writer = _LineWriter(files.create(unfinished))
        try:
            writer.write(_first_line(reader, damage, next_sequence, written_at_ms))
            for file, offset in parts:
                for line in _part_lines(reader, file, offset):
                    writer.write(line)
            writer.write(
                {"kind": "end", "records": writer.records_count, "bytes": writer.bytes_count}
            )
            writer.finish()
        except BaseException:
            writer.file.close()
            files.remove(unfinished)
            raise
        writer.file.close()
        files.rename(unfinished, path)
        files.sync_directory(os.path.dirname(path) or ".")
    except OSError as error:
        raise DataDirectoryUnwritable(path, error) from error
    return Dropped(path, writer.records_count, writer.bytes_count)


class _LineWriter:
    """Collects lines, writes them in large pieces, and counts what they say."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.records_count = 0
        self.bytes_count = 0
        self._offset = 0
        self._pending = bytearray()

    def write(self, line: dict[str, Any]) -> None:
        self.records_count += line["kind"] == "record"
        if line["kind"] in ("bytes", "zeros"):
            self.bytes_count += line["length"]
        self._pending += _encode(line) + b"\n"
        if len(self._pending) >= _WRITE_BYTES:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self.file.sync()

    def _flush(self) -> None:
        self.file.write_at(self._offset, bytes(self._pending))
        self._offset += len(self._pending)
        self._pending.clear()


def _first_line(
    reader: LogReader, damage: LogDamaged, next_sequence: int, written_at_ms: int
) -> dict[str, Any]:
    return {
        "kind": "dropped",
        "format": DROPPED_FORMAT,
        "written_at_ms": written_at_ms,
        "directory": reader.path,
        "data_id": reader.identity.data_id.hex(),
        "shard_count": reader.identity.shard_count,
        "damage": {"file": damage.file, "offset": damage.offset, "problem": damage.problem},
        "from_sequence": next_sequence,
    }


def _part_lines(reader: LogReader, file: str, offset: int) -> Iterator[dict[str, Any]]:
    """Yield everything about one part: its bytes, then what they mean."""
    data = read_segment(reader.files, file)
    name = os.path.basename(file)
    content_end = max(offset, len(data.rstrip(b"\0")))
    for start in range(offset, content_end, _PIECE_BYTES):
        piece = data[start : min(start + _PIECE_BYTES, content_end)]
        text = base64.b64encode(piece).decode()
        yield {
            "kind": "bytes",
            "file": name,
            "offset": start,
            "length": len(piece),
            "data": text,
        }
    if len(data) > content_end:
        length = len(data) - content_end
        yield {"kind": "zeros", "file": name, "offset": content_end, "length": length}
    for found in salvage(file, data, offset, reader.identity.data_id):
        if found.is_gap:
            yield {
                "kind": "gap",
                "file": name,
                "offset": found.offset,
                "length": found.end - found.offset,
                "problem": found.problem,
            }
        yield from _record_lines(found, name)


def _record_lines(batch: Piece, name: str) -> Iterator[dict[str, Any]]:
    for sequence, (shard, shard_sequence, body) in enumerate(batch.records, batch.first_sequence):
        record = read_record(body)
        line: dict[str, Any] = {
            "kind": "record",
            "sequence": sequence,
            "shard": shard,
            "shard_sequence": shard_sequence,
            "file": name,
            "batch_offset": batch.offset,
        }
        if record is None:
            line["body"] = base64.b64encode(body).decode()
        else:
            line["type"] = record_type(record)
            line["record"] = record_fields(record)
        yield line
