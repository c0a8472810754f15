"""Cursors: where a search continues, as one opaque word that the client cannot change.

A cursor carries the whole search, so that the following pages answer the same question. It is
signed with the data directory's own key, so it stays valid over restarts and is refused by other
servers.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from troth.core.commands import TimeRange
from troth.core.json_bytes import encoder
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.limits import PAGE_LIMIT_COUNT
from troth.core.model import PromiseState

from .errors import invalid

FOREIGN_CURSOR = "is not a cursor of this search; use the one that the last page came with"
_SIGNATURE_BYTES = 16
_LENGTH_LIMIT = 64 * 1024


class Search(Struct, frozen=True, array_like=True):
    """One page of a search. `kind` is `promises` or `schedules`, which have no states.

    `values` says how much of params and values is shown. With `is_partial` a page may end early.
    With `oldest_first` it continues above `before_serial`, else below.
    """

    kind: str
    pattern: str
    states: tuple[PromiseState, ...]
    tags: Mapping[str, str]
    limit_count: int
    before_serial: int | None
    created: TimeRange | None = None
    completed: TimeRange | None = None
    values: str = "full"
    is_partial: bool = False
    oldest_first: bool = False


_encode = encoder()
_decoder = msgspec.json.Decoder(Search)


def encode_cursor(search: Search, secret: bytes) -> str:
    """Make the cursor of a search."""
    return sign_payload(_encode(search), secret)


def sign_payload(payload: bytes, secret: bytes) -> str:
    """Make the cursor that has this in it. What it is, only `decode_cursor` looks at."""
    return f"{_word(payload)}.{_word(_sign(payload, secret))}"


def decode_cursor(cursor: str, kind: str, secret: bytes) -> Search:
    """Read a cursor that this server made for this kind of search. Raises ApiError (400)."""
    refusal = invalid("query cursor", FOREIGN_CURSOR)
    payload = verified_payload(cursor, secret)
    if payload is None:
        raise refusal
    try:
        search = _decoder.decode(payload)
    except UNREADABLE_JSON as error:
        # The secret outlives the program: another version has signed another form of search.
        raise refusal from error
    if search.kind != kind or not 1 <= search.limit_count <= PAGE_LIMIT_COUNT:
        raise refusal
    return search


def verified_payload(cursor: str, secret: bytes) -> bytes | None:
    """Return what `sign_payload` put into a cursor; None if it did not make this one."""
    if len(cursor) > _LENGTH_LIMIT or not cursor.isascii():
        return None
    payload_word, dot, signature_word = cursor.partition(".")
    try:
        payload, signature = _bytes(payload_word), _bytes(signature_word)
    except (binascii.Error, ValueError):
        # No base64: so not ours.
        return None
    # The second comparison: base64 has several spellings of the same bytes, and one is ours.
    if not dot or not hmac.compare_digest(signature, _sign(payload, secret)):
        return None
    if cursor != f"{_word(payload)}.{_word(signature)}":
        return None
    return payload


def _sign(payload: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, b"cursor:" + payload, hashlib.sha256)[:_SIGNATURE_BYTES]


def _word(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _bytes(word: str) -> bytes:
    return base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
