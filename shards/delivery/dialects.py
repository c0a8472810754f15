"""The dialects that workers speak: what one understands, another drops, or crashes on."""

from collections import OrderedDict
from enum import StrEnum
from typing import Final, final


class Dialect(StrEnum):
    """What the worker at the other end of a connection understands."""

    REST = "rest"
    ENVELOPE = "envelope"


# See PENDING in model.py.
REST: Final = Dialect.REST
ENVELOPE: Final = Dialect.ENVELOPE

_DECISIONS_LIMIT_COUNT: Final = 10_000  # ids that are remembered while they are away


@final
class DecidedDialects(OrderedDict[tuple[str | None, str], Dialect]):
    """What connections understand, by group (None: all) and id: the newest that were noted."""

    def note(self, key: tuple[str | None, str], dialect: Dialect) -> None:
        """Remember one more, and forget the oldest if they are too many."""
        self[key] = dialect
        if len(self) > _DECISIONS_LIMIT_COUNT:
            self.popitem(last=False)
