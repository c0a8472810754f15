"""Answers to requests that the server knows only in part, or cannot read at all.

Such a request has met no row of the endpoint table: its bytes are not HTTP, its head is too large,
or there is no room for its connection. Its first line still says what it was meant for, and clients
of the envelope protocol understand nothing but envelopes.
"""

import re
from typing import Final

from troth.http.envelope.wire import refusal_body
from troth.http.wire.errors import ApiError, error_body

BEGINNING_BYTES: Final = 256
"""So much of a request's beginning is kept for this."""

_ENVELOPE: Final = re.compile(rb"\r?\n?POST (?:https?://[^/?# ]*)?/?(?:\?[^ ]*)? ", re.IGNORECASE)


def early_body(beginning: bytes, error: ApiError, url: str) -> bytes:
    """Render the JSON body of a refusal in the form that its client understands."""
    if _ENVELOPE.match(beginning) is not None:
        return refusal_body(error)
    return error_body(error, url, "")


def early_answer(beginning: bytes, error: ApiError, url: str) -> bytes:
    """Render the whole answer to a request that begins like this; its connection ends with it."""
    body = early_body(beginning, error, url)
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
