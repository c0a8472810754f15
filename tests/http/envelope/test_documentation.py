"""What `/docs` says about `POST /`: every kind, and commands that work as they stand."""

import json
import shlex

from tests.http.client import running
from troth.http.envelope.documentation import EXAMPLES, curl_commands, kinds_text
from troth.http.envelope.operations import QUESTIONS
from troth.http.envelope.searches import PROCEDURES

KINDS_TEXT_LIMIT_BYTES = 3_000


async def test_the_examples_work_one_after_the_other() -> None:
    async with running() as world:
        for command in curl_commands():
            curl, _, address, _, body = shlex.split(command)
            answer = await world.send("POST", "/", json.loads(body))
            assert (curl, address, answer.status) == ("curl", "localhost:8001", 200), command


def test_every_kind_is_described_and_has_an_example() -> None:
    kinds = {*QUESTIONS, *PROCEDURES}
    text = kinds_text()

    assert {kind for kind, _ in EXAMPLES} == kinds
    assert all(f"`{kind}` (" in text for kind in kinds)
    assert "`promise.create` (id, timeoutAt, param?, tags?)" in text
    assert "`task.acquire` (id, version, pid, ttl)" in text
    assert len(text.encode()) < KINDS_TEXT_LIMIT_BYTES
