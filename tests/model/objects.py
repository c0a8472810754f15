"""The objects of `reference.py`, how clients see them, and small functions on ids and values."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from .words import INVALID, Refused

Json = dict[str, Any]
Arguments = dict[str, Any]


@dataclass
class Answer:
    """What a request gets: a code, a body if it succeeds, and the state that it met."""

    code: int
    body: Json | None = None
    met: str = "-"


@dataclass
class Task:
    """A task, with what only the server knows of it."""

    id: str
    type: str
    root: str
    leaf: str
    receiver: Any
    timeout: int
    created_on: int
    not_before: int = 0
    state: str = "init"
    counter: int = 1
    process_id: str | None = None
    ttl: int = 0
    expires_at: int = 0
    completed_on: int | None = None
    stalled: bool = False
    sending: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to it any more (rest.md 5.2)."""
        return self.state in ("completed", "timedout")

    @property
    def is_in_flight(self) -> bool:
        """Whether others of its root wait for it (rest.md 5.3)."""
        return self.state in ("enqueued", "claimed")

    @property
    def is_stalled(self) -> bool:
        """Whether its message could not be sent, and waits."""
        return self.stalled and self.state == "init"

    def json(self) -> Json:
        """As clients see it (rest.md 1.1, with `rootPromiseId` of decisions.md)."""
        shown: Json = {
            "id": self.id,
            "counter": self.counter,
            "timeout": self.timeout,
            "rootPromiseId": self.root,
            "createdOn": self.created_on,
        }
        if self.process_id is not None:
            shown["processId"] = self.process_id
        if self.completed_on is not None:
            shown["completedOn"] = self.completed_on
        return shown


@dataclass
class Callback:
    """Somebody who waits for a promise."""

    type: str
    root: str
    receiver: Any
    json: Json


def value(given: Json | None) -> Json:
    """A param or value as it is shown: without what is empty, in canonical base64."""
    shown: Json = {}
    if given and given.get("headers"):
        shown["headers"] = {name: text or "" for name, text in given["headers"].items()}
    if given and given.get("data"):
        try:
            content = base64.b64decode(given["data"].replace("\n", ""), validate=True)
        except binascii.Error as error:
            raise Refused(INVALID) from error
        shown["data"] = base64.b64encode(content).decode()
    return shown


def escaped(identifier: str) -> str:
    """An id without colons, so that pairs of ids cannot be mistaken (decisions.md)."""
    return identifier.replace("%", "%25").replace(":", "%3A")


def matches(pattern: str, identifier: str) -> bool:
    """Whether a pattern describes an id: `*` is any text and the only wildcard."""
    if not pattern:
        return not identifier
    if pattern[0] == "*":
        return any(matches(pattern[1:], identifier[n:]) for n in range(len(identifier) + 1))
    return bool(identifier) and pattern[0] == identifier[0] and matches(pattern[1:], identifier[1:])
