"""Bits that rot while the server is down: it must refuse to start, and change nothing.

The damage is then undone, as an operator does who restores a backup. Rot in the last batch, which
nothing confirms yet, is not tried here: it cannot be told from a torn write.
"""

from collections.abc import Callable
from random import Random

from tests.shards.simulated_storage import PATH
from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.data_directory import log_name
from troth.persistence.errors import DataDirectoryError
from troth.persistence.wal.frames import SEGMENT_HEADER_BYTES, decode_frame

from .disk import SimulatedStore
from .ledger import require


def confirmed_frames(data: bytes, after_sequence: int) -> list[tuple[int, int]]:
    """Where the frames of a segment that others follow begin and end.

    Those that begin later than at a sequence; what a checkpoint covers is not read again.
    """
    found = []
    frame = decode_frame(data, SEGMENT_HEADER_BYTES)
    while frame is not None:
        following = decode_frame(data, frame.end)
        if following is None or following.previous_checksum != frame.checksum:
            break
        if frame.record_count and frame.first_sequence > after_sequence:
            found.append((frame.offset, frame.end))
        frame = following
    return found


def let_log_rot(
    files: SimulatedFiles,
    group: int,
    after_sequence: int,
    random: Random,
    start: Callable[[], object],
) -> bool:
    """Flip a bit of a confirmed frame and try to start; whether there was one."""
    path = f"{PATH}/{log_name(group)}"
    if not files.exists(path):
        return False
    frames = [
        (f"{path}/{name}", begin, end)
        for name in files.list_names(path)
        if name.endswith(".log")
        for begin, end in confirmed_frames(files.read(f"{path}/{name}"), after_sequence)
    ]
    if not frames:
        return False
    name, begin, end = random.choice(frames)
    offset, bit = random.randrange(begin, end), random.randrange(8)
    files.flip_bit(name, offset, bit)
    before = files.contents()
    _require_refusal(start, f"a rotten bit in {name} at {offset}")
    files.end_process()
    require(files.contents() == before, "a refused start has changed the log")
    files.flip_bit(name, offset, bit)
    return True


def let_checkpoint_rot(store: SimulatedStore, random: Random, start: Callable[[], object]) -> bool:
    """Flip a bit of a row and try to start; whether there was one."""
    tables = store.memory.tables
    found = [(table, key) for table in sorted(tables) for key in sorted(tables[table])]
    found = [(table, key) for table, key in found if tables[table][key]]
    if not found:
        return False
    table, key = random.choice(found)
    value = tables[table][key]
    rotten = bytearray(value)
    rotten[random.randrange(len(value))] ^= 1 << random.randrange(8)
    tables[table][key] = bytes(rotten)
    _require_refusal(start, f"a rotten row of {table}")
    tables[table][key] = value
    return True


def _require_refusal(start: Callable[[], object], what: str) -> None:
    try:
        start()
    except DataDirectoryError:
        return
    require(False, f"{what} was not noticed")
