"""What reading JSON from others may end in: msgspec raises more than its own errors."""

from typing import Final

import msgspec

UNREADABLE_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec's JSON decoders raise: for bytes that are no JSON or of another form, for text that
is not UTF-8, and for what is nested too deeply."""
