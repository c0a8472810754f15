"""The dialects that workers speak: what one understands, another drops, or crashes on."""

from enum import StrEnum
from typing import Final


class Dialect(StrEnum):
    """What the worker at the other end of a connection understands."""

    REST = "rest"
    ENVELOPE = "envelope"


# See PENDING in model.py.
REST: Final = Dialect.REST
ENVELOPE: Final = Dialect.ENVELOPE
