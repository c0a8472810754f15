"""Codes that no other test names."""

import pytest

from tests.http.admin.test_accounts import secret_of
from tests.http.client import FAR_MS, running
from troth.core.codes import Code


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/promises", {"id": "c/1", "timeout": FAR_MS}),
        ("GET", "/promises/c/1", None),
        ("PATCH", "/promises/c/1", {"state": "RESOLVED"}),
    ],
)
async def test_a_token_is_only_for_ids_with_its_prefix(
    method: str, target: str, body: object
) -> None:
    async with running() as world:
        scopes = ("promises:read", "promises:write")
        limited = await secret_of(world, *scopes, idPrefix="b/")
        answer = await world.send(method, target, body, limited)

        assert (answer.status, answer.code) == (403, Code.FORBIDDEN_PREFIX)
        created = {"id": "b/1", "timeout": FAR_MS}
        assert (await world.send("POST", "/promises", created, limited)).status == 201


async def test_a_build_that_is_not_there() -> None:
    async with running() as world:
        reader = await secret_of(world, "functions:read")
        answer = await world.send("GET", f"/v1/build/{'0' * 24}", headers=reader)

        assert (answer.status, answer.code) == (404, Code.BUILD_NOT_FOUND)
