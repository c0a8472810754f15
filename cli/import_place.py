"""The progress of a file's import, kept next to the file in case it is interrupted.

`FILE.importing` holds one line of JSON: which server, which file (size and time of its last
change), the offset and the number of the line to go on with, and what has become of the lines
before. An import removes it at its end. Where it cannot be written, an interrupted import begins
again, which is safe and only slower.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

SUFFIX: Final = ".importing"


class ImportPlace:
    """The place that an import of one file into one server has reached."""

    def __init__(self, file: Path, server: str) -> None:
        """Look at the file. Raises OSError."""
        found = file.stat()
        self._path = file.with_name(file.name + SUFFIX)
        self._which = {"server": server, "size": found.st_size, "changed_ns": found.st_mtime_ns}
        self._can_write = True

    def read(self) -> dict[str, Any]:
        """Return what the last, interrupted import of this file has noted; empty if nothing."""
        try:
            noted = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}  # there is none, or it is cut short: then the import begins at the beginning
        if not isinstance(noted, dict) or noted.get("which") != self._which:
            return {}
        place = noted.get("place")
        return place if isinstance(place, dict) else {}

    def note(self, place: dict[str, Any]) -> None:
        """Keep a place. Where that is not possible nothing is kept."""
        if not self._can_write:
            return
        fresh = self._path.with_name(self._path.name + ".tmp")
        try:
            fresh.write_text(json.dumps({"which": self._which, "place": place}))
            os.replace(fresh, self._path)
        except OSError:
            self._can_write = False  # a directory that may only be read: see above

    def forget(self) -> None:
        """Remove what was kept: the import is finished."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            self._can_write = False  # it was not written either
