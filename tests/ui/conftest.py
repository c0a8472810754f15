"""One browser and some servers, with and without data, for all tests of the web UI in a process."""

import os
import shutil
import time
from asyncio import _get_running_loop, _set_running_loop
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import trio
from playwright.sync_api import Browser, sync_playwright

from tests.helpers.fill_store import Filling, fill
from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client

from . import demo
from .browser import Scheme, Visitor, launch, visiting
from .pictures.shop import ACCOUNT, SCOPES, Shop

Visit = Callable[..., AbstractContextManager[Visitor]]

STORE: Final = os.environ.get("TROTH_SCALE_STORE")
"""The directory that `make ui-scale` fills, with thirty times as much as tests make themselves."""
LARGE: Final = Filling(45_000, 12_000, 1_500, 1_000, 300, 500)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests that need a browser as slow: each takes some seconds of a core."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser."""
    with sync_playwright() as playwright:
        made = launch(playwright)
        loop = _get_running_loop()
        yield made
        _set_running_loop(loop)  # a test without a browser may be the last, which does without it
        made.close()


@pytest.fixture(scope="session")
def busy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An open server with the data of `demo`. Use ids of your own, and never stop it."""
    with ServerProcess(tmp_path_factory.mktemp("busy-server")) as process:
        demo.fill(process, int(time.time() * 1000))
        yield process


@pytest.fixture
def visit(browser: Browser, busy_server: ServerProcess) -> Visit:
    """Visit the server; see `visiting`."""
    return partial(visiting, browser, busy_server.url)


class WallClock:
    """The clock of this machine, which is that of its servers."""

    def now_ms(self) -> int:
        """Return the time, in ms since 1970."""
        return int(time.time() * 1000)

    def current_time(self) -> float:
        """Return a time that only goes forward, in seconds."""
        return time.monotonic()


class Staffed(NamedTuple):
    """A server with accounts, a client of it that may do everything, and one of its functions."""

    server: ServerProcess
    client: Client
    function_id: str
    visit: Visit


@contextmanager
def signed_in(
    browser: Browser, url: str, token: str, scheme: Scheme = "light"
) -> Iterator[Visitor]:
    """Visit a server with a session of a token."""
    with visiting(browser, url, scheme) as visitor:
        answer = visitor.context.request.post(
            f"{url}/session", data={"token": token}, headers={"X-Troth-UI": "1"}
        )
        assert answer.status == 201, answer.text()
        yield visitor


@pytest.fixture(scope="session")
def staffed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staffed]:
    """A server with all that a shop has: see `Shop`. Change only what you have made."""
    directory = tmp_path_factory.mktemp("staffed")
    options = ("--snapshot-directory", str(directory / "snapshots"))
    rules = ("--retain", "resolved:30d,rejected:90d")
    with ServerProcess(directory / "server", *options, *rules) as server:
        shop = Shop(server, WallClock())
        token = shop.open()
        try:
            function_id = shop.install_functions()
            shop.leave_tasks(function_id)
            shop.start_bulk_jobs(0)
            visit = partial(signed_in, browser, server.url, token)
            yield Staffed(server, shop.client, function_id, visit)
        finally:
            shop.close()


@pytest.fixture(scope="session")
def unused_visit(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """Visit a server on which nothing has been done but to make an account, whose token it is."""
    with ServerProcess(tmp_path_factory.mktemp("unused")) as server:
        operator = Client(server, (server.data / "admin.key").read_text().strip())
        operator.json("POST", "/admin/accounts", {"name": ACCOUNT})
        body = {"account": ACCOUNT, "name": "operations", "scopes": SCOPES}
        token = operator.json("POST", "/admin/tokens", body)["token"]
        yield partial(signed_in, browser, server.url, token)


@pytest.fixture(scope="session")
def large_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An open server with 60,000 promises, or what `make ui-scale` has. Use ids of your own."""
    server = ServerProcess(tmp_path_factory.mktemp("large"))
    if STORE is None:
        trio.run(fill, server.data, LARGE)
    else:
        shutil.copytree(Path(STORE), server.data)
    with server:
        yield server
    shutil.rmtree(server.data)
