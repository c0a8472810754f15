"""One started process: its end is its own, whatever it has left unread."""

import os
import sys
from pathlib import Path

from tests.cli.supervising.running import until
from tests.helpers.repository import IMPORT_ROOT
from troth.cli.supervising.children import Child
from troth.http.supervision.seat import ProcessSeat

LEAVES_UNREAD = (
    "import select, sys, time\n"
    "from troth.http.supervision.seat import take\n"
    "control = take()\n"
    "select.select([control], [], [])\n"
    "control.close()\n"
    "time.sleep(0.5)\n"
    "sys.exit(5)\n"
)


def test_a_process_that_leaves_something_unread_ends_by_itself(tmp_path: Path) -> None:
    """It may still be writing its last checkpoint when its socket is gone."""
    lock = os.open(tmp_path, os.O_RDONLY)
    seat = ProcessSeat(0, 1, 1, str(tmp_path), lock, (), (), ("127.0.0.1", 1), None, "run")
    environment = {**os.environ, "PYTHONPATH": str(IMPORT_ROOT)}
    child = Child(0, [sys.executable, "-c", LEAVES_UNREAD], environment)
    child.seat(seat, ())

    def has_closed() -> bool:
        assert child.receive() == []
        return not child.is_open

    until(has_closed, "the end of its socket")
    until(lambda: child.exit_status() is not None, "its end")
    assert child.exit_status() == 5
    child.close()
    os.close(lock)
