"""Credentials as NATS's own tools make them: an operator signs an account, which signs a user."""

import json
import os
from base64 import urlsafe_b64encode
from typing import Any, Final, NamedTuple

import nkeys

_OPERATOR: Final = nkeys.PREFIX_BYTE_OPERATOR
_ACCOUNT: Final = nkeys.PREFIX_BYTE_ACCOUNT
_USER: Final = nkeys.PREFIX_BYTE_USER
_UNLIMITED: Final = -1
_LIMITS: Final = {
    **dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), _UNLIMITED),
    "wildcards": True,
}


class OperatedAccount(NamedTuple):
    """What a server is told of an account, and the file of a user of it."""

    settings: str
    credentials: str


def operated_account() -> OperatedAccount:
    """Make an account with JetStream, a user of it, and the system account."""
    operator, account, user = (_new_key(kind) for kind in (_OPERATOR, _ACCOUNT, _USER))
    system, key = _key_of(_new_key(_ACCOUNT)), _key_of(account)
    stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), _UNLIMITED)
    accounts = {
        key: _signed(operator, key, {"type": "account", "limits": {**_LIMITS, **stored}}),
        system: _signed(operator, system, {"type": "account", "limits": _LIMITS}),
    }
    preloaded = ", ".join(f"{one}: {token}" for one, token in accounts.items())
    operator_token = _signed(operator, _key_of(operator), {"type": "operator"})
    user_token = _signed(account, _key_of(user), {"type": "user", **_LIMITS})
    return OperatedAccount(
        f"operator: {operator_token}\nsystem_account: {system}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {preloaded} }}",
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n",
    )


def _key_of(pair: Any) -> str:
    key: str = pair.public_key.decode()
    return key


def _new_key(kind: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def _signed(issuer: Any, subject: str, claims: dict[str, Any]) -> str:
    """Return a JWT of NATS's own kind."""
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {
        "jti": os.urandom(8).hex(),
        "iat": 1_700_000_000,
        "iss": _key_of(issuer),
        "name": claims["type"],
        "sub": subject,
        "nats": {**claims, "version": 2},
    }
    text = b".".join(_encoded(json.dumps(part).encode()) for part in (head, body))
    return (text + b"." + _encoded(issuer.sign(text))).decode()


def _encoded(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
