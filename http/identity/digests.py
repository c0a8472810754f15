"""What is kept of secrets that have 256 random bits: their SHA-256.

Such secrets need neither a salt nor a slow hash. Looking a digest up takes a time that says nothing
about the secret.
"""

import hashlib


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a secret's text, in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()
