"""Requests with the largest bodies: no pass of the loop is long, whether they are good or wrong.

In processor time, of all that the loop does between two looks for I/O.
"""

import gc
import random
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
import trio

from tests.http.admin.test_accounts import operator
from tests.http.client import FAR_MS, Answer, World, running
from tests.shards.passing import LongestPass
from troth.core.limits import BODY_LIMIT_BYTES, IMPORT_LIMIT_COUNT
from troth.http.promises.schemas import ImportBody
from troth.http.wire.bodies import BodyDecoder
from troth.http.wire.errors import ApiError
from troth.http.wire.fields import RequestLimits

from .test_crowded import SHAPES

LIMIT_MS: Final = 25
"""A look takes up to 10 ms. Wrong bodies took 13 to 24, imports 21 to 35, on a busy machine."""
VALUE: Final = b64encode(random.Random(0).randbytes(BODY_LIMIT_BYTES * 3 // 4 - 600)).decode()
WRONG_AT_THE_END: Final = VALUE[:-4] + "*" + VALUE[-4:-1]
ENVELOPE: Final = {"kind": "promise.create", "head": {"corrId": "1", "version": "2026-04-01"}}


def imported(count: int, data: str, **more: object) -> dict[str, Any]:
    """Promises to import, each with that as its value."""
    one = {"state": "RESOLVED", "timeout": FAR_MS, "createdOn": 1, "completedOn": 2}
    promises = [{"id": f"i{number}", **one, "value": {"data": data}} for number in range(count)]
    promises[-1] |= more
    return {"promises": promises}


def enveloped(data: bytes) -> bytes:
    """A request of the envelope protocol."""
    return msgspec.json.encode(ENVELOPE)[:-1] + b',"data":' + data + b"}"


def created(data: str, **more: object) -> bytes:
    """A promise with a large param."""
    return msgspec.json.encode(
        {"id": "p", "timeout": FAR_MS, "timeoutAt": FAR_MS, "param": {"data": data}, **more}
    )


SHARE: Final = VALUE[: BODY_LIMIT_BYTES // IMPORT_LIMIT_COUNT // 8 * 4]
TAGS: Final = {f"t{number}": "x" for number in range(40)}
NUMBERS: Final = b'{"unknown":%b,"id":7}' % SHAPES["objects"]

REQUESTS: Final = {
    "a create": ("/promises", created(VALUE), 201),
    "a create with an id beyond ASCII": ("/promises", created(VALUE, id="é"), 201),
    "a create with line breaks": ("/promises", created("\r\n" + VALUE[:-4] + "YR=="), 201),
    "a create without id": ("/promises", created(VALUE, id=""), 400),
    "a create with wrong base64": ("/promises", created(WRONG_AT_THE_END), 400),
    "a create of objects": ("/promises", NUMBERS, 400),
    "an envelope": ("/", enveloped(created(VALUE)), 200),
    "an envelope of objects": ("/", enveloped(NUMBERS), 400),
    "an envelope of objects that is none": ("/", enveloped(NUMBERS)[:-1] + b"]", 400),
    "a batch": ("/promises/batch", b'[{"create":%b}]' % created(VALUE), 200),
    "a wrong batch": ("/promises/batch", b'[{"create":%b}]' % NUMBERS, 400),
    "an import": ("/admin/import", msgspec.json.encode(imported(1_000, SHARE, tags=TAGS)), 200),
    "an import with one wrong": (
        "/admin/import",
        msgspec.json.encode(imported(1_000, SHARE, state="RUNNING")),
        400,
    ),
    "an import with all wrong": ("/admin/import", msgspec.json.encode(imported(1_000, "*")), 400),
}


@pytest.fixture(autouse=True)
def _no_collections() -> Iterator[None]:
    """What the collector finds belongs to other tests."""
    gc.disable()
    yield
    gc.enable()


async def longest_pass(world: World, path: str, body: bytes) -> tuple[Answer, float]:
    """Send a request; the answer, and the longest pass while it was answered."""
    headers = {"Content-Type": "application/json"} | await operator(world)
    found = LongestPass()
    await trio.lowlevel.checkpoint()
    trio.lowlevel.add_instrument(found)
    answer = await world.send("POST", path, raw=body, headers=headers)
    trio.lowlevel.remove_instrument(found)
    return answer, found.longest_ms


@pytest.mark.slow
@pytest.mark.own_core
@pytest.mark.parametrize("name", REQUESTS)
async def test_no_pass_is_long_for_a_large_body(name: str) -> None:
    path, body, status = REQUESTS[name]
    assert len(body) <= BODY_LIMIT_BYTES
    found = []
    for _ in range(2):  # another process may have taken the caches
        async with running() as world:
            answer, longest_ms = await longest_pass(world, path, body)
        assert answer.status == status, answer.json
        found.append(longest_ms)
        if longest_ms < LIMIT_MS:
            break
    print(f"{name}: {min(found):.1f} ms")
    assert min(found) < LIMIT_MS


# What is decoded in slices is what is decoded at once

DECODER: Final = BodyDecoder(ImportBody, RequestLimits())


def outcome(content: bytes, *, in_slices: bool) -> object:
    """What the body says, or what is wrong with it."""
    try:
        if not in_slices:
            return msgspec.to_builtins(DECODER.decode(content))
        slices = DECODER.decode_in_slices(content)
        count = 0
        while True:
            try:
                next(slices)
                count += 1
            except StopIteration as end:
                assert count > 1
                return msgspec.to_builtins(end.value)
    except ApiError as error:
        return error.problems


FAULTS: Final = [
    {},
    {"state": "RUNNING"},
    {"state": 7},
    {"id": ""},
    {"value": {"data": "*"}},
    {"value": {"data": 3}},
    {"value": 3},
    {"value": {"data": "YR=="}},
    {"createdOn": -1},
    {"tags": {"a": 2**70}},
    {"unknown": [1]},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_an_import_is_decoded_in_slices_as_it_is_at_once(fault: dict[str, object]) -> None:
    wanted = imported(300, SHARE, **fault)
    for body in (wanted, {**wanted, "promises": [*wanted["promises"], 7]}):
        content = msgspec.json.encode(body)
        assert outcome(content, in_slices=True) == outcome(content, in_slices=False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"7",
        b"null",
        b"{}",
        b"[]",
        b'{"promises":null}',
        b'{"promises":[]}',
        b'{"promises":{}}',
        b'{"promises":[{}]}',
        b'{"promises":[null]}',
        b'{"promises":[' + b",".join([b"{}"] * 1_001) + b"]}",
        b'{"promises":[{"id":"\xff"}]}',
        b'\xef\xbb\xbf{"promises":[]}',
        b'{"promises":[',
        b"[" * 5_000,
    ],
    ids=lambda content: repr(content[:30]),
)
def test_what_is_wrong_with_an_import_as_a_whole_is_found_in_slices(content: bytes) -> None:
    content = content[:-1] + b" " * 70_000 + content[-1:]
    assert outcome(content, in_slices=True) == outcome(content, in_slices=False)
