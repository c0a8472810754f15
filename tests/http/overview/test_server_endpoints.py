"""GET /whoami and GET /settings: whose credentials these are, and how the server is set up."""

import json
from pathlib import Path

import pytest

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client
from tests.http.admin.test_accounts import bearer, new_account, operator, secret_of
from tests.http.client import NOW_MS, running
from troth import __version__
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.settings.settings import Settings


async def test_an_open_server_says_what_needs_no_credentials() -> None:
    async with running() as world:
        world.clock.time_ms += 5
        shown = (await world.send("GET", "/whoami")).json

        assert (shown["kind"], shown["account"], shown["token"]) == ("anonymous", None, None)
        assert "promises:write" in shown["scopes"]
        assert "admin" not in shown["scopes"]
        assert shown["server"] == {
            "version": __version__,
            "isOpen": True,
            "inMemory": False,
            "startedOn": NOW_MS,
            "now": NOW_MS + 5,
        }


async def test_credentials_count_on_an_open_server_too() -> None:
    async with running() as world:
        shown = (await world.send("GET", "/whoami", headers=await operator(world))).json
        stranger = await world.send("GET", "/whoami", headers=bearer("troth_" + "x" * 43))

        assert (shown["kind"], shown["scopes"]) == ("operator", ["admin"])
        assert (stranger.status, stranger.code) == (401, Code.UNAUTHORIZED)


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_token_of_any_scope_may_ask(scope: Scope) -> None:
    async with running() as world:
        account = await new_account(world)
        prefix = "b/" if scope.value.startswith("promises") else ""
        limited = {"idPrefix": prefix} if prefix else {}
        headers = await secret_of(world, scope.value, expiresIn=1_000, **limited)
        shown = (await world.send("GET", "/whoami", headers=headers)).json

        assert (shown["kind"], shown["name"], shown["account"]) == ("token", "billing", account)
        assert (shown["scopes"], shown["idPrefix"]) == ([scope.value], prefix)
        assert shown["expiresOn"] == NOW_MS + 1_000
        assert shown["server"]["isOpen"] is False
        assert (await world.send("GET", "/whoami")).code == Code.UNAUTHORIZED


async def test_settings_say_where_they_came_from_and_keep_secrets() -> None:
    given = Settings(basic_auth={"ann": "word-of-ann"}, sources={"basic_auth": "file troth.toml"})
    async with running(given) as world:
        answer = await world.send("GET", "/settings", headers=await operator(world))
        rows = {row["name"]: row for row in answer.json["settings"]}

        assert "word-of-ann" not in answer.body.decode()
        users = rows["basic_auth"]
        assert (users["secret"], users["source"]) == (True, "file troth.toml")
        assert users["value"] == "ann (passwords not shown)"
        assert rows["listen"]["source"] == "default"
        assert rows["listen"]["value"] == rows["listen"]["default"]


@pytest.mark.slow
def test_both_on_a_real_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--retain", "resolved:7d") as server:
        key = (server.data / "admin.key").read_text().strip()
        operator = Client(server, key)
        shown = operator.json("GET", "/whoami")
        rows = {row["name"]: row for row in operator.json("GET", "/settings")["settings"]}

        assert shown["kind"] == "operator"
        assert rows["retain"]["source"] == "option --retain"
        assert rows["retain"]["value"] == "resolved:7d"
        assert server.request("GET", "/whoami")[1]["kind"] == "anonymous"
        assert server.request("GET", "/settings")[0] == 401
        assert json.dumps(rows).count(key) == 0
