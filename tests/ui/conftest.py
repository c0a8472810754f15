"""One browser and one server, with data, for all tests of the web UI in a process."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.helpers.server import ServerProcess

from . import demo
from .browser import Visitor, launch, visiting

Visit = Callable[..., AbstractContextManager[Visitor]]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser."""
    with sync_playwright() as playwright:
        made = launch(playwright)
        yield made
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
