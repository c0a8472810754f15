"""A server under the real supervisor: `supervised.py SETTINGS PROCESSES [COMMAND...]`.

Without a command its processes are stand-ins. In the environment `SPARE_AFTER_S` is how soon there
is a spare process, `KILL_AFTER_S` how soon one that says nothing is killed, `PREPARE_LIMIT_S`
how long the next process of a restart may prepare itself, and `FOLLOW_LIMIT_S` how long it may
follow its group.
"""

import json
import os
import sys
import time
from pathlib import Path

from troth.cli.supervising import lives, rolling, spare
from troth.cli.supervising.start import supervise
from troth.http.settings.sources import load

STAND_IN = Path(__file__).with_name("stand_in.py")


def main() -> int:
    """Run it; the exit status."""
    if "SPARE_AFTER_S" in os.environ:
        spare.AFTER_S = float(os.environ["SPARE_AFTER_S"])  # type: ignore[misc]
    if "PREPARE_LIMIT_S" in os.environ:
        rolling.PREPARE_LIMIT_S = float(os.environ["PREPARE_LIMIT_S"])  # type: ignore[misc]
    if "FOLLOW_LIMIT_S" in os.environ:
        rolling.FOLLOW_LIMIT_S = float(os.environ["FOLLOW_LIMIT_S"])  # type: ignore[misc]
    if "KILL_AFTER_S" in os.environ:
        lives.KILL_AFTER_S = float(os.environ["KILL_AFTER_S"])  # type: ignore[misc]
    settings = load(None, {}, json.loads(sys.argv[1]))
    command = sys.argv[3:] or [sys.executable, str(STAND_IN)]
    return supervise(
        settings, int(sys.argv[2]), now_ms=time.time_ns() // 1_000_000, command=command
    )


if __name__ == "__main__":
    sys.exit(main())
