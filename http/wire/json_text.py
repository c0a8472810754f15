"""JSON text: compact UTF-8, as answers and messages have it."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from troth.core.json_bytes import encoder

dump: Final[Callable[[Struct | list[Any]], bytes]] = encoder("deterministic")
"""Write an answer: the fields of Structs in their order, the keys of dicts sorted."""

dump_in_order: Final[Callable[[Any], bytes]] = encoder()
"""Write plain data, the keys of dicts in their order."""
