"""How late timers are handled: the bounds of the histogram that all shards share.

A timer's lateness is the time from its deadline to the end of the turn that handled it. Timers that
were armed when their deadline had passed already are not counted: they were armed late, or
the server was down.
"""

from typing import Final

BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0)
