"""Who is asking: the one function that every way in uses before it does anything for a client.

With `basic_auth` empty everybody may. Otherwise HTTP Basic users, compared in constant time, so
that nobody learns a password, or that a user exists, from how long a refusal takes. Further kinds
of credentials are further branches of `authenticate`.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

from troth.core.codes import Code

from .errors import ApiError

ANONYMOUS = ""
_CHALLENGE = (b"www-authenticate", b'Basic realm="Authorization Required", charset="UTF-8"')


def authenticate(headers: Mapping[bytes, bytes], basic_auth: Mapping[str, str]) -> str:
    """Return the user's name, `ANONYMOUS` if none is needed. Raises ApiError (401)."""
    if not basic_auth:
        return ANONYMOUS
    user, password = _basic_credentials(headers.get(b"authorization", b""))
    known = basic_auth.get(user)
    # The unknown user's password is compared too, with something that never matches.
    expected = _digest(known if known is not None else "")
    if hmac.compare_digest(_digest(password), expected) and known is not None:
        return user
    raise ApiError(Code.UNAUTHORIZED, headers=[_CHALLENGE])


def _basic_credentials(authorization: bytes) -> tuple[str, str]:
    """User and password; both empty, which matches nobody, if the header is unusable."""
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return "", ""
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    user, _, password = decoded.partition(":")
    return user, password


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
