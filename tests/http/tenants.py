"""Accounts with tokens for tests of `/v1`, without the endpoints that make them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from tests.helpers.zips import plain_zip
from troth.core.catalog import Account, Scope, Token
from troth.http.identity.credentials import new_secret
from troth.http.identity.digests import digest_of

from .client import NOW_MS, Answer, World

HANDLER = "def handle(request):\n    return request\n"


@dataclass
class Tenant:
    """An account's token, and requests with it."""

    world: World
    account_id: str
    headers: Mapping[str, str]

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a request to what is under `/v1`."""
        given = {**self.headers, **(headers or {})}
        return await self.world.send(method, f"/v1{path}", body, given, raw=raw)

    async def function(self, **more: object) -> str:
        """Create a function of Python code; its id."""
        body = {"name": "f", "type": "CODE", "lang": "PY", **more}
        return await made(self.send("POST", "/function", body))

    async def tag(self, name: str = "t", **more: object) -> str:
        """Make a tag; its id."""
        return await made(self.send("POST", "/tag", {"name": name, **more}))

    async def upload(self, function_id: str, archive: bytes | None = None) -> str:
        """Upload an archive, a good one unless given; the build's id."""
        content = plain_zip({"handler.py": HANDLER}) if archive is None else archive
        kind = {"Content-Type": "application/octet-stream"}
        return await made(
            self.send("POST", f"/build/{function_id}?arch=amd64", raw=content, headers=kind)
        )

    async def built(self, function_id: str, archive: bytes | None = None) -> dict[str, Any]:
        """Upload an archive and wait until it is checked; the build, with its id."""
        return await self.checked(await self.upload(function_id, archive))

    async def checked(self, build_id: str) -> dict[str, Any]:
        """Wait until a build is checked; the build."""
        with trio.fail_after(60):
            await self.world.builder.wait_settled()
        build: dict[str, Any] = (await self.send("GET", f"/build/{build_id}")).json
        assert build["status"] != "PENDING"
        return build


async def made(asked: Any) -> str:
    """The id in the answer to a request that makes something."""
    answer: Answer = await asked
    assert answer.status == 201, answer.body
    identifier: str = answer.json["id"]
    return identifier


def tenant(
    world: World, number: int = 1, scopes: tuple[Scope, ...] = tuple(Scope), id_prefix: str = ""
) -> Tenant:
    """An account of this number with a token that allows this."""
    account_id = f"{number:024x}"
    secret = new_secret()
    token = Token(new_secret(), 1, NOW_MS, account_id, digest_of(secret), scopes, "", id_prefix)
    world.api.credentials.put(Account(account_id, 1, NOW_MS, f"account {number}"))
    world.api.credentials.put(token)
    return Tenant(world, account_id, {"Authorization": f"Bearer {secret}"})
