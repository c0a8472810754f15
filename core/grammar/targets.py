"""Targets: the addresses of the envelope protocol (envelope.md 3), in tags and of listeners.

    http://… and https://…       push
    poll://uni@group/id          only that connection
    poll://any@group[/id]        that connection if it is there, else any of the group

Group and id are compared as they are written, without percent-decoding. Names from the setting
`targets` mean nothing here, and neither do other schemes.
"""

import re
from functools import lru_cache
from typing import Final

from .addresses import NAME_LENGTH_LIMIT, Address, PollAddress, Undeliverable, resolve

_POLL: Final = re.compile(r"poll://(uni|any)@([^/]+)(?:/(.*))?", re.DOTALL)
_UNUSABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@lru_cache(maxsize=4_096)
def resolve_target(text: str) -> Address | Undeliverable:
    """Return the address that a target stands for. Never raises."""
    scheme = text.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return resolve(text, {})
    match = _POLL.fullmatch(text)
    if match is None:
        return Undeliverable(
            "a target must be an http or https URL, poll://any@group, poll://any@group/id or "
            "poll://uni@group/id"
        )
    cast, group, connection_id = match.groups()
    if _UNUSABLE.search(text):
        return Undeliverable("a target must not hold control characters")
    if len(group) > NAME_LENGTH_LIMIT or len(connection_id or "") > NAME_LENGTH_LIMIT:
        return Undeliverable(
            f"group and id of a target have at most {NAME_LENGTH_LIMIT} characters"
        )
    if cast == "uni":
        if not connection_id:
            return Undeliverable("a poll target with uni needs the id of a connection")
        return PollAddress(group, connection_id, "uni")
    return PollAddress(group, connection_id or None, "any")


def target_problem(text: str) -> str | None:
    """Return what is wrong with a target, as a sentence part for people; None if nothing is."""
    address = resolve_target(text)
    return address.reason if isinstance(address, Undeliverable) else None
