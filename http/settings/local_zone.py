"""The time zone of this machine: what a schedule without a zone of its own means.

The core gets the zone as an argument and never looks for it.
"""

import os
from pathlib import Path
from zoneinfo import ZoneInfo

from troth.core.grammar.zones import Zone, load_zone

_FILE = Path("/etc/localtime")


def local_zone() -> Zone:
    """Return the zone of this process: $TZ, else the system's, else UTC.

    Raises troth.core.grammar.zones.ZoneUnknown when $TZ names none.
    """
    name = os.environ.get("TZ")
    if name:
        return load_zone(name.removeprefix(":"))
    try:
        with _FILE.open("rb") as file:
            return Zone("Local", ZoneInfo.from_file(file))
    except FileNotFoundError:
        return load_zone("UTC")
