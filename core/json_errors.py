"""What reading JSON or msgpack from others may end in: msgspec raises more than its own errors."""

from typing import Final

import msgspec

UNREADABLE_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec's decoders raise: for bytes that are neither or of another form, for text that
is not UTF-8, and for what is nested too deeply."""
