"""What tests of the questions share: promises with tasks, and tokens that see only some of them."""

from typing import Any

from tests.http.admin.test_accounts import secret_of
from tests.http.client import World


async def create_with_task(world: World, promise_id: str, receiver: str = "poll://any@g") -> None:
    """A promise whose task waits for a worker."""
    answer = await world.create(promise_id, tags={"resonate:invoke": receiver})
    assert answer.status == 201


async def limited(world: World, prefix: str) -> dict[str, str]:
    """The headers of a token for ids with a prefix."""
    return await secret_of(world, "promises:read", idPrefix=prefix)


async def all_pages(
    world: World, path: str, key: str, headers: dict[str, str] | None = None
) -> list[Any]:
    """The rows of all pages of a list; `path` has a query."""
    rows: list[Any] = []
    target = path
    for _ in range(1_000):
        answer = await world.send("GET", target, None, headers)
        assert answer.status == 200, answer.body
        rows += answer.json[key]
        if answer.json["cursor"] is None:
            return rows
        target = f"{path.partition('?')[0]}?cursor={answer.json['cursor']}"
    raise AssertionError("the pages do not end")


def ids(rows: list[Any], key: str = "id") -> list[str]:
    """The ids of rows."""
    return [row[key] for row in rows]
