"""Standard input, output and error, if the command was started with them closed.

A descriptor below 3 that is closed is the next to be given out: to the log, or to a client's
socket, and what some library prints goes there. Python itself has no `sys.stderr` then, and the
first message of a failure becomes a failure of its own. So what is closed is made `/dev/null`.
"""

import os
import sys
from typing import Final

_MODES: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_closed_streams() -> None:
    """Open descriptors 0 to 2 that are closed; to be called before anything else is opened."""
    for descriptor, (name, mode) in enumerate(_MODES):
        if _is_closed(descriptor):
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
