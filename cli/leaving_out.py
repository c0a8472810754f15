"""Importing libraries without what they load only if it is there.

structlog loads rich for tracebacks in color, httpx for a command of its own, httpcore loads h2 for
HTTP/2. A server uses none of that, and it takes a fifth of the time that its start takes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

LEFT_OUT: Final = ("rich", "pygments", "h2", "colorama")
"""What libraries of the server would load, and do without."""


@contextmanager
def leaving_out(*names: str) -> Iterator[None]:
    """Import in this block as if these modules were not installed, but those that are there.

    Afterwards they can be imported. Libraries that were imported in the block do without for good.
    """
    modules = cast("dict[str, object]", sys.modules)
    missing = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(missing))  # None: the import fails
    try:
        yield
    finally:
        for name in missing:
            del modules[name]
