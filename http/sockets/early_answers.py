"""What a request is answered of which only the beginning is known, or nothing that makes sense.

Such a request has met no row of the endpoint table: its bytes are no HTTP, its head is too large,
there is no room for its connection. What it was meant for is in its first line all the same, and
clients of the envelope protocol understand nothing but envelopes.
"""

import re
from typing import Final

from troth.http.envelope.wire import refusal_body
from troth.http.wire.errors import ApiError, error_body

BEGINNING_BYTES: Final = 256
"""So much of a request's beginning is kept for this."""

_ENVELOPE: Final = re.compile(rb"\r?\n?POST (?:https?://[^/?# ]*)?/?(?:\?[^ ]*)? ", re.IGNORECASE)


def early_body(beginning: bytes, error: ApiError, url: str) -> bytes:
    """Render the JSON body of a refusal, as whoever sends such a beginning understands it."""
    if _ENVELOPE.match(beginning) is not None:
        return refusal_body(error)
    return error_body(error, url, "")
