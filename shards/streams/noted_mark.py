"""From where on a stream has what a node's checkpoints do not cover: a small file next to them."""

import json
import os
from pathlib import Path
from typing import Final

from troth.persistence.errors import DataDirectoryUnreadable
from troth.persistence.files import RealFiles
from troth.persistence.streams.chain import ChainMark

CACHE_NAME: Final = "stream.json"


def read_mark(directory: Path, data_id: bytes, place: str) -> ChainMark | None:
    """Return where to begin to read the stream at `place`; None if that is not known.

    Raises DataDirectoryUnreadable.
    """
    path = directory / CACHE_NAME
    try:
        fields = json.loads(path.read_bytes())
        found_id = fields.pop("data_id")
        mark = ChainMark(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataDirectoryUnreadable(
            str(path),
            f"cannot be read ({error})",
            f"Everything is in {place}: start with an empty directory.",
        ) from error
    if found_id != data_id.hex():
        raise DataDirectoryUnreadable(
            str(directory),
            f"belongs to other data than {place}",
            "Choose another directory with --data.",
        )
    return mark


def write_mark(directory: Path, data_id: bytes, mark: ChainMark) -> None:
    """Note where to begin to read, so that a crash leaves the old place or the new one."""
    fields = {"data_id": data_id.hex(), **mark._asdict()}
    path = directory / CACHE_NAME
    fresh = path.with_name(f"{path.name}.tmp")
    with fresh.open("wb") as file:
        file.write(json.dumps(fields).encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    RealFiles().sync_directory(str(path.parent))
