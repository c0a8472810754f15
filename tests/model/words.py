"""The numbers of the specification by name (rest.md 0.5, decisions.md)."""

INVALID = 40000
SAME_ROOT = 40001
LOCK_HELD = 40304
TASK_CLAIMED = 40305
TASK_OVER = 40306
TASK_COUNTER = 40307
TASK_STATE = 40308
NO_PROMISE = 40400
NO_SCHEDULE = 40401
NO_LOCK = 40402
NO_TASK = 40403
NO_RECEIVER = 40404
EXISTS = 40900
SCHEDULE_EXISTS = 40901
PENDING = 40930
IN_USE = 40931
ORIGIN_PENDING = 40932
FENCED = 41200

INTEGER_MIN = -(2**63)
INTEGER_MAX = 2**63 - 1
NEVER_MS = -62135596800000
"""How the API writes that a schedule never runs again (rest.md 8.1)."""


class Refused(Exception):
    """The request is refused with a code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def plus(left: int, right: int) -> int:
    """A sum that stays within 64 bits (decisions.md: sums saturate)."""
    return max(INTEGER_MIN, min(left + right, INTEGER_MAX))
