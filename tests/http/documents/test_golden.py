"""What clients rely on stays: the meaning of `/openapi.json`, and the bytes of answers.

Both are kept in `golden/`. After a change that is meant, write them again, and look at the
difference, which belongs into the same commit:

    .venv/bin/python -m tests.http.documents.test_golden
"""

from pathlib import Path

import trio
from trio.testing import MockClock

from tests.http.client import running
from troth.http.documents.table import API_ENDPOINTS

from .corpus import NOT_RECORDED, record
from .meaning import Meaning

GOLDEN = Path(__file__).resolve().parent / "golden"
MEANING = GOLDEN / "openapi.txt"
ANSWERS = GOLDEN / "answers.txt"


async def meaning() -> str:
    """The meaning of a server's description."""
    async with running() as world:
        document = (await world.send("GET", "/openapi.json")).json
    return "\n".join(Meaning(document).lines()) + "\n"


async def test_the_meaning_of_the_description_stays() -> None:
    assert (await meaning()).splitlines() == MEANING.read_text().splitlines()


async def test_the_bytes_of_answers_stay(mock_clock: MockClock) -> None:
    assert (await record()).text.splitlines() == ANSWERS.read_text().splitlines()


async def test_every_good_answer_of_every_endpoint_is_recorded(mock_clock: MockClock) -> None:
    corpus = await record()
    wanted = {
        (endpoint.name, success.status)
        for endpoint in API_ENDPOINTS
        for success in endpoint.successes
        if endpoint.name not in NOT_RECORDED
    }

    assert wanted - corpus.covered == set()


def test_meaning_is_the_same_for_both_versions_of_openapi() -> None:
    newer = {"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}
    older = {"nullable": True, "allOf": [{"$ref": "#/components/schemas/A"}]}
    inner = {"type": "object", "properties": {"a": {"$ref": "#/components/schemas/A"}}}
    document = {"components": {"schemas": {"A": inner}}}
    shape = Meaning(document).shape

    assert shape(newer) == shape(older) == "null | object{a?: ..., *}"
    assert shape({"type": ["string", "null"]}) == shape({"type": "string", "nullable": True})
    assert shape({"type": "string"}) != shape({"type": "string", "maxLength": 1})


async def _write() -> None:
    MEANING.write_text(await meaning())
    ANSWERS.write_text((await record()).text)


if __name__ == "__main__":
    trio.run(_write, clock=MockClock())
