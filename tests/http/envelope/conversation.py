"""Requests of the envelope protocol to a server of `tests/http/client.py`, every answer checked.

Whatever is answered is an envelope (envelope.md 2): the request's kind and corrId, the HTTP status
in its head, the version; `data` is a text for errors, else an object; and nothing in it is null or
a number with a fraction. `checked_envelope` makes sure of that for every answer of every test here.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.http.client import FAR_MS, Answer, World

VERSION: Final = "2026-04-01"
TARGET: Final = "poll://any@workers"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer: its status and its data."""

    status: int
    data: Any

    @property
    def text(self) -> str:
        """What an error says."""
        assert isinstance(self.data, str)
        return self.data


def unspeakable(value: object, place: str = "$") -> Iterator[str]:
    """Yield the places of an answer where there is null, or a number that is no integer."""
    if value is None or isinstance(value, float):
        yield f"{place} is {value!r}"
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from unspeakable(one, f"{place}.{name}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from unspeakable(one, f"{place}[{number}]")


def checked_envelope(status: int, body: bytes, kind: str, corr_id: str) -> Spoken:
    """Return what an answer says, or fail because of how it says it."""
    answer = json.loads(body)
    assert list(answer) == ["kind", "head", "data"], answer
    assert answer["kind"] == kind, answer
    assert answer["head"] == {"corrId": corr_id, "status": status, "version": VERSION}
    assert type(answer["head"]["status"]) is int
    data = answer["data"]
    good = list if kind == "debug.tick" else dict
    assert isinstance(data, good if status in (200, 300) else str), answer
    assert data or status == 200
    assert not list(unspeakable(answer)), answer
    return Spoken(status, data)


@dataclass
class Conversation:
    """One client: a world, and the headers and head fields that go with each of its requests."""

    world: World
    headers: Mapping[str, str] = field(default_factory=dict)
    head: Json = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def say(self, kind: str, data: object, **head: object) -> Spoken:
        """Make a request, and check how it is answered. `head` is added to the usual one."""
        corr_id = f"c{next(self._numbers)}"
        whole = {"corrId": corr_id, "version": VERSION, **self.head, **head}
        answer = await self.send({"kind": kind, "head": whole, "data": data})
        assert answer.header("content-type") == "application/json; charset=utf-8"
        return checked_envelope(answer.status, answer.body, kind, corr_id)

    async def send(self, envelope: object) -> Answer:
        """Make a request of anything."""
        return await self.world.send("POST", "/", envelope, self.headers)

    async def good(self, kind: str, /, **data: object) -> Any:
        """Make a request that succeeds; its data."""
        spoken = await self.say(kind, data)
        assert spoken.status == 200, spoken
        return spoken.data

    async def create(self, promise_id: str, **more: object) -> Any:
        """Create a promise, with a target unless `tags` says otherwise; return it."""
        data = {"id": promise_id, "timeoutAt": FAR_MS, "tags": {"resonate:target": TARGET}, **more}
        return (await self.good("promise.create", **data))["promise"]

    async def settle(self, promise_id: str, state: str = "resolved", **more: object) -> Any:
        """Settle a promise; return it."""
        return (await self.good("promise.settle", id=promise_id, state=state, **more))["promise"]

    async def claim(self, task_id: str, version: int = 0, pid: str = "w", ttl: int = 60_000) -> Any:
        """Acquire a task; return what is answered."""
        return await self.good("task.acquire", id=task_id, version=version, pid=pid, ttl=ttl)

    async def task(self, task_id: str) -> Any:
        """Return a task as it is."""
        return (await self.good("task.get", id=task_id))["task"]

    async def suspend(self, task_id: str, version: int, *awaited: str) -> Spoken:
        """Suspend a task on promises."""
        actions = [{"data": {"awaited": one, "awaiter": task_id}} for one in awaited]
        return await self.say(
            "task.suspend", {"id": task_id, "version": version, "actions": actions}
        )
