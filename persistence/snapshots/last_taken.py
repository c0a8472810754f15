"""When the last whole snapshot of a data directory was taken, kept in it for alerts on its age.

A file of its own, `DIR/last-snapshot.json`, rewritten and renamed: `{"at_ms": …}`. It is not part
of what a server promises to keep. If it is missing or cannot be read, no snapshot is known.
"""

import json
import os
from pathlib import Path
from typing import Final

FILE_NAME: Final = "last-snapshot.json"


def last_taken_ms(directory: Path) -> int:
    """Return when the last snapshot was taken, in ms since 1970; 0 if none is known."""
    try:
        noted = json.loads((directory / FILE_NAME).read_bytes())
        at_ms = noted["at_ms"]
    except (OSError, ValueError, KeyError, TypeError):
        # Missing, cut short by a crash, or edited: then nothing is known, which alerts tell.
        return 0
    return at_ms if isinstance(at_ms, int) else 0


def note_taken(directory: Path, at_ms: int) -> None:
    """Note that a whole snapshot was taken. Raises OSError."""
    target = directory / FILE_NAME
    fresh = target.with_name(f"{FILE_NAME}.tmp")
    fresh.write_text(json.dumps({"at_ms": at_ms}))
    os.replace(fresh, target)
