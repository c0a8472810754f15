"""Fields of requests: what each may hold; null is as good as absent; nothing changes on a 400."""

import copy
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.http.client import FAR_MS, running
from tests.http.envelope.conversation import TARGET, Conversation
from troth.http.envelope.operations import QUESTIONS
from troth.http.envelope.searches import PROCEDURES
from troth.http.settings.settings import Settings

TAGS: Final = {"resonate:target": TARGET}
VALUE: Final = {"headers": {"h": "v"}, "data": "d"}
HELD: Final = {"id": "t", "version": 1}
NEW: Final = {"id": "n", "timeoutAt": FAR_MS, "param": VALUE, "tags": TAGS}
END: Final = {"id": "t", "state": "resolved", "value": VALUE}
AWAITED: Final = {"awaited": "a", "awaiter": "t"}

GOOD: Final[dict[str, dict[str, Any]]] = {
    "promise.get": {"id": "a"},
    "promise.create": NEW,
    "promise.settle": {**END, "id": "a"},
    "promise.register_callback": AWAITED,
    "promise.register_listener": {"awaited": "a", "address": "poll://uni@g/i"},
    "promise.search": {"state": "pending", "tags": {"a": "b"}, "limit": 5},
    "task.get": {"id": "t"},
    "task.create": {"pid": "w", "ttl": 1, "action": {"data": NEW}},
    "task.acquire": {"id": "p", "version": 0, "pid": "w", "ttl": 1},
    "task.fence": {**HELD, "action": {"kind": "promise.create", "data": NEW}},
    "task.suspend": {**HELD, "actions": [{"data": AWAITED}]},
    "task.fulfill": {**HELD, "action": {"data": END}},
    "task.release": HELD,
    "task.heartbeat": {"pid": "w", "tasks": [HELD]},
    "task.halt": {"id": "t"},
    "task.continue": {"id": "h"},
    "task.search": {"state": "pending", "limit": 5},
    "schedule.create": {
        "id": "n",
        "cron": "* * * * *",
        "promiseId": "n",
        "promiseTimeout": 1,
        "promiseParam": VALUE,
        "promiseTags": TAGS,
    },
    "schedule.get": {"id": "s"},
    "schedule.delete": {"id": "s"},
    "schedule.search": {"tags": {"a": "b"}, "limit": 5},
}
OPTIONAL: Final = {
    *("param", "value", "headers", "data", "state", "limit", "promiseParam", "head"),
}
"""Fields that may be absent wherever they are; see `is_optional` for the others."""

WRONG: Final[dict[type, tuple[Any, ...]]] = {
    int: (-1, 1.0, 1.5, "1", True, False, [], {}, 2**63, 10**30),
    str: (0, 1.0, True, [], {}),
    dict: ("x", 1, True, []),
    list: ("x", 1, True, {}, []),
}


def places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where there is something in data, the innermost last."""
    steps = data.items() if isinstance(data, dict) else enumerate(data)
    for name, one in steps:
        yield (*place, name)
        if isinstance(one, dict | list):
            yield from places(one, (*place, name))


def changed(data: Any, place: tuple[Any, ...], change: Any) -> Any:
    """Return data with something else at a place."""
    whole = copy.deepcopy(data)
    within = whole
    for name in place[:-1]:
        within = within[name]
    within[place[-1]] = change
    return whole


def at(data: Any, place: tuple[Any, ...]) -> Any:
    """Return what is at a place."""
    for name in place:
        data = data[name]
    return data


def is_optional(kind: str, place: tuple[Any, ...]) -> bool:
    """Return whether what is at a place may be absent."""
    name = place[-1]
    if name == "data":
        return place[-2:] != ("action", "data") and not isinstance(place[-2], int)
    if name == "state":
        return kind.endswith("search")
    if name == "tags":
        return kind != "task.create"
    return name in OPTIONAL


async def prepared(conversation: Conversation) -> None:
    """Make what the good requests are about."""
    await conversation.create("a", tags={})
    for identifier in ("t", "p", "h"):
        await conversation.create(identifier)
    await conversation.claim("t")
    await conversation.good("task.halt", id="h")
    schedule = {**GOOD["schedule.create"], "id": "s"}
    await conversation.good("schedule.create", **schedule)


async def everything(conversation: Conversation) -> list[Any]:
    """Return all that there is."""
    return [
        await conversation.good(f"{kind}.search", limit=1000)
        for kind in ("promise", "task", "schedule")
    ]


def test_every_kind_is_here() -> None:
    assert set(GOOD) == {*QUESTIONS, *PROCEDURES}


@pytest.mark.parametrize("kind", GOOD)
async def test_the_good_requests_are_good(kind: str) -> None:
    async with running() as world:
        conversation = Conversation(world)
        await prepared(conversation)
        await conversation.good(kind, **GOOD[kind], unknown={"x": None})


@pytest.mark.parametrize("kind", GOOD)
async def test_every_field_of_another_type_or_out_of_range_is_refused(kind: str) -> None:
    async with running() as world:
        conversation = Conversation(world)
        await prepared(conversation)
        before = await everything(conversation)
        for place in places(GOOD[kind]):
            for wrong in WRONG[type(at(GOOD[kind], place))]:
                spoken = await conversation.say(kind, changed(GOOD[kind], place, wrong))
                assert spoken.status == 400, (place, wrong)
        assert await everything(conversation) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", GOOD)
async def test_null_is_as_good_as_absent(kind: str) -> None:
    for place in places(GOOD[kind]):
        async with running() as world:
            conversation = Conversation(world)
            await prepared(conversation)
            spoken = await conversation.say(kind, changed(GOOD[kind], place, None))
            inner = place[-1] in ("h", "a", "resonate:target") or isinstance(place[-1], int)
            if is_optional(kind, place) and not inner:
                assert spoken.status == 200, place
            elif not inner and (kind, place[-1]) != ("schedule.search", "tags"):
                assert spoken.status == 400, place


@pytest.mark.slow
@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("identifier", ["", "\0", "a\0b", "x" * 2000])
async def test_ids_that_are_none_are_refused(kind: str, identifier: str) -> None:
    async with running() as world:
        conversation = Conversation(world)
        await prepared(conversation)
        names = {"id", "awaited", "awaiter", "promiseId"}
        for place in places(GOOD[kind]):
            if place[-1] in names and kind != "task.heartbeat":
                spoken = await conversation.say(kind, changed(GOOD[kind], place, identifier))
                assert spoken.status == 400, place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "place", "wrong"),
    [
        ("promise.settle", ("state",), "pending"),
        ("promise.settle", ("state",), "rejected_timedout"),
        ("promise.settle", ("state",), "RESOLVED"),
        ("promise.register_callback", ("awaiter",), "a"),
        ("promise.register_listener", ("address",), ""),
        ("promise.register_listener", ("address",), "poll://g"),
        ("promise.register_listener", ("address",), "poll://other@g"),
        ("promise.register_listener", ("address",), "poll://any@"),
        ("promise.register_listener", ("address",), "gcps://p/t"),
        ("promise.search", ("state",), "done"),
        ("promise.search", ("limit",), 0),
        ("promise.search", ("limit",), 1001),
        ("promise.search", ("cursor",), "x"),
        ("promise.create", ("tags", "resonate:target"), "bash://x"),
        ("promise.create", ("tags", "resonate:delay"), "-1"),
        ("promise.create", ("tags", "resonate:delay"), "1.0"),
        ("promise.create", ("tags", "resonate:delay"), "soon"),
        ("promise.create", ("tags", "resonate:delay"), str(FAR_MS)),
        ("promise.create", ("tags",), {"resonate:delay": "1"}),
        ("task.create", ("ttl",), 0),
        ("task.create", ("pid",), ""),
        ("task.create", ("action", "data", "tags"), {}),
        ("task.create", ("action", "data", "tags", "resonate:delay"), "1"),
        ("task.acquire", ("ttl",), 0),
        ("task.acquire", ("pid",), ""),
        ("task.fence", ("action", "kind"), "promise.get"),
        ("task.fence", ("action", "kind"), ""),
        ("task.fence", ("action", "data", "id"), "t"),
        ("task.suspend", ("actions", 0, "data", "awaited"), "t"),
        ("task.suspend", ("actions", 0, "data", "awaiter"), "p"),
        ("task.fulfill", ("action", "data", "id"), "p"),
        ("task.search", ("state",), "claimed"),
        ("task.search", ("limit",), 0),
        ("schedule.create", ("cron",), "every day"),
        ("schedule.create", ("promiseId",), "{{.nothing}}"),
        ("schedule.create", ("promiseTags",), {}),
        ("schedule.create", ("promiseTags", "resonate:target"), "nobody"),
        ("schedule.search", ("limit",), 1001),
    ],
)
async def test_what_has_the_right_type_and_no_sense(
    kind: str, place: tuple[Any, ...], wrong: object
) -> None:
    async with running() as world:
        conversation = Conversation(world)
        await prepared(conversation)
        before = await everything(conversation)
        spoken = await conversation.say(kind, changed(GOOD[kind], place, wrong))

        assert spoken.status == 400
        assert spoken.text.startswith("data")
        assert await everything(conversation) == before


async def test_sizes() -> None:
    settings = Settings(
        id_limit_bytes=20,
        tags_limit_count=3,
        tag_limit_bytes=40,
        value_headers_limit_count=2,
        value_header_limit_bytes=10,
    )
    async with running(settings) as world:
        conversation = Conversation(world)

        async def status(**data: object) -> int:
            whole = {"id": "p", "timeoutAt": FAR_MS, **data}
            return (await conversation.say("promise.create", whole)).status

        assert await status(id="é" * 10) == 200
        assert await status(id="é" * 10 + "x") == 400
        assert await status(tags={str(n): "" for n in range(3)}) == 200
        assert await status(tags={str(n): "" for n in range(4)}) == 400
        assert await status(tags={"a": "é" * 19}) == 200
        assert await status(tags={"a": "é" * 20}) == 400
        assert await status(param={"headers": {"a": "", "b": ""}}) == 200
        assert await status(param={"headers": {"a": "", "b": "", "c": ""}}) == 400
        assert await status(param={"headers": {"a": "x" * 9}}) == 200
        assert await status(param={"headers": {"a": "x" * 10}}) == 400


async def test_data_is_kept_to_the_byte_and_numbers_to_the_last_digit() -> None:
    async with running() as world:
        conversation = Conversation(world)
        for number, text in enumerate(("", "{}", "a\0b", "täst\u2028\U0001f600", "\\u0041", " ")):
            param = {"data": text, "headers": {"": text}}
            made = await conversation.create(f"p{number}", param=param, timeoutAt=2**63 - 1)
            assert (made["param"], made["timeoutAt"]) == (param, 2**63 - 1)
            seen = await conversation.good("promise.get", id=f"p{number}")
            assert seen == {"promise": made}


async def test_a_lone_surrogate_is_no_text() -> None:
    async with running() as world:
        raw = b'{"kind":"promise.get","head":{"corrId":"c","version":"2026-04-01"},'
        answer = await world.send("POST", "/", raw=raw + b'"data":{"id":"\\ud800"}}')
        assert answer.status == 400
