"""JSON text: compact UTF-8, as answers and messages have it."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

dump: Final[Callable[[Struct | list[Any]], bytes]] = msgspec.json.Encoder(
    order="deterministic"
).encode
"""Write an answer: the fields of Structs in their order, the keys of dicts sorted."""

dump_in_order: Final[Callable[[Any], bytes]] = msgspec.json.Encoder().encode
"""Write plain data, the keys of dicts in their order."""
