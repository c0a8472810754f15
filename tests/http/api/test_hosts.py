"""Which names a server answers to while nobody needs credentials."""

import pytest

from tests.http.admin.test_accounts import new_account, secret_of
from tests.http.client import World, running
from troth.core.codes import Code
from troth.http.api.hosts import Hosts, host_of
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings

NAMED = Settings(
    listen=ListenAddress("api.example.com", 8001),
    poll_listen=ListenAddress("polls.example.com", 8002),
    url="https://Troth.Example.com:8443/api",
    hosts=("other.example.com",),
)
OWN = [
    *(
        "127.0.0.1",
        "127.0.0.1:8001",
        "[::1]:8001",
        "[::1]",
        "[fe80::1%25eth0]:8001",
        "192.168.1.5:1",
    ),
    *("localhost", "localhost:8001", "LOCALHOST:8001", "localhost.", "troth", "troth:8001", ""),
    *("troth.localhost", "box.local", "troth.default.svc:80", "a.svc.cluster.local", "x.lan"),
    *("db.internal.", "pi.home.arpa", "me@localhost:8001"),
]
STRANGERS = [
    *("evil.example", "evil.example:8001", "EVIL.example.", "127.0.0.1.evil.example"),
    *("localhost.evil.example", "svc.evil.example", "evil.svc.example", "127.0.0.1@evil.example"),
    *(
        "evil.locals",
        "notlocal.test",
        "[::1].evil.example]",
        "1.2.3",
        "0x7f.0.0.1",
        "bücher.example",
    ),
]
NAMES = ["api.example.com", "polls.example.com:1", "TROTH.example.com", "other.example.com.:99"]


@pytest.mark.parametrize("host", OWN)
def test_names_that_no_stranger_can_have_are_the_servers_own(host: str) -> None:
    assert Hosts(Settings()).is_own(host_of(host.encode()))


@pytest.mark.parametrize("host", [*STRANGERS, *NAMES])
def test_names_that_can_be_had_in_public_dns_are_strangers(host: str) -> None:
    assert not Hosts(Settings()).is_own(host_of(host.encode()))


@pytest.mark.parametrize("host", NAMES)
def test_names_in_the_settings_are_the_servers_own(host: str) -> None:
    assert Hosts(NAMED).is_own(host_of(host.encode()))
    assert not Hosts(NAMED).is_own(host_of(b"example.com"))


async def status(world: World, host: str, target: str = "/promises/none") -> int:
    answer = await world.send("GET", target, headers={"Host": host})
    return answer.status


async def test_an_open_server_refuses_strangers_names_whatever_is_asked_for() -> None:
    async with running() as world:
        for target in ("/promises/none", "/", "/docs", "/metrics", "/nothing", "/v1/task/list"):
            for _ in range(2):
                answer = await world.send("GET", target, headers={"Host": "evil.example"})
                assert (answer.status, answer.code) == (421, Code.MISDIRECTED), target
            assert "'evil.example'" in answer.json["error"]["details"][0]["message"]
        for target in ("/ping", "/health", "/ready"):
            assert await status(world, "evil.example", target) == 200
        assert await status(world, "evil.example", "http://127.0.0.1/promises/none") == 421
        assert await status(world, "127.0.0.1", "http://evil.example/promises/none") == 421
        assert await status(world, "127.0.0.1", "http://evil.example/nothing") == 421
        assert await status(world, "127.0.0.1", "http://127.0.0.1/promises/none") == 404
        assert await status(world, "127.0.0.1", "http://evil.example/ready") == 200
        for _ in range(2):
            assert await status(world, "localhost:8001") == 404
        asked = {"Host": "evil.example", "Origin": "http://evil.example"}
        assert (await world.send("OPTIONS", "/promises", headers=asked)).status == 421
        assert (await world.send("GET", "/promises/none")).status == 404
        # However many names are tried, few are remembered.
        for number in range(1_000):
            assert await status(world, f"host{number}") == 404
        assert len(world.application.dispatcher._familiar_hosts) <= 256


async def test_with_accounts_or_users_any_name_will_do() -> None:
    async with running() as world:
        await new_account(world)
        headers = {"Host": "evil.example", **await secret_of(world, "promises:read")}
        assert (await world.send("GET", "/promises/none", headers=headers)).status == 404
        assert await status(world, "evil.example") == 401
    async with running(Settings(basic_auth={"ann": "word"})) as world:
        assert await status(world, "evil.example") == 401


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [
        ("http://localhost:8001", "localhost:8001", True),
        ("HTTP://LocalHost:8001", "localhost:8001", True),
        ("http://localhost:3000", "localhost:8001", False),
        ("http://127.0.0.1:8001", "localhost:8001", False),
        ("https://troth.example.com:8443", "127.0.0.1:8001", True),
        ("https://troth.example.com", "127.0.0.1:8001", False),
        ("https://other.example.com", "127.0.0.1:8001", True),
        ("http://other.example.com:81", "127.0.0.1:8001", False),
        ("moz-extension://other.example.com", "127.0.0.1:8001", False),
        ("https://example.com", "127.0.0.1:8001", False),
        ("null", "null", False),
        ("https://192.168.0.1", "127.0.0.1:8001", False),
    ],
)
def test_pages_of_the_servers_own_names_are_its_own(origin: str, host: str, is_same: bool) -> None:
    hosts = Hosts(NAMED)

    assert hosts.is_same_origin(origin.encode(), host.encode()) is is_same
    assert not hosts.is_same_origin(b"https://example.com", None)
