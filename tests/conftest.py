"""Fixtures for tests against a real server process; its log is shown when such a test fails."""

import gc
import logging
import os
import signal
import sys
import tempfile
from asyncio import _get_running_loop, _set_running_loop
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.nats import NatsServer, nats_server
from tests.helpers.order import in_shares
from tests.helpers.postgres import PostgresServer, postgres_server
from tests.helpers.repository import IMPORT_ROOT, ROOT
from tests.helpers.server import SERVE, ServerProcess

TESTS = Path(__file__).parent
BYTECODE = pytest.StashKey[str]()
FEW, FEW_COUNT = "few", 20
"""A profile of hypothesis, and how many of the usual examples it has."""
TALKATIVE = ("h11", "h2", "hpack", "httpcore", "httpx")
"""Libraries whose loggers `configure_logging` makes quieter."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for tests of the package as it is published."""
    parser.addoption(
        "--installed", action="store_true", help="refuse to test the code in this checkout"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check where the code comes from, and share its bytecode."""
    if config.getoption("--hypothesis-profile", None) == FEW:
        from hypothesis import settings  # it takes longer to import than most tests

        settings.register_profile(FEW, settings.get_profile("ci"), max_examples=FEW_COUNT)
    if config.getoption("installed") and IMPORT_ROOT.is_relative_to(ROOT):
        raise pytest.UsageError(f"troth is not installed: {IMPORT_ROOT} is in this checkout")
    _take_signals()
    _share_bytecode_of_processes(config)


def _take_signals() -> None:
    """Take signals that whoever started the tests ignores: all that tests start would do so, too.

    `nohup` ignores SIGHUP, and a shell's `&` ignores SIGINT. Programs that keep to it never end.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _share_bytecode_of_processes(config: pytest.Config) -> None:
    """Let the processes that tests start share their bytecode, even if this one must write none.

    Otherwise each of some hundred servers and commands would compile all modules anew: 0.2 s. If
    xdist's workers run the tests, they start as this process did and are told the directory then:
    to begin with an empty one, each would compile everything.
    """
    given = getattr(config, "workerinput", {}).get("bytecode")
    if given is not None:
        _share_bytecode(given)
    elif sys.dont_write_bytecode:
        directory = tempfile.TemporaryDirectory(
            prefix="troth-bytecode-", ignore_cleanup_errors=True
        )
        config.add_cleanup(directory.cleanup)
        config.stash[BYTECODE] = directory.name
        if not config.getoption("numprocesses", None):
            _share_bytecode(directory.name)


def _share_bytecode(directory: str) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = directory


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist where bytecode is shared."""
    node.workerinput["bytecode"] = node.config.stash.get(BYTECODE, None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what is collected, which stays: that takes a quarter of the time.

    Nor later: what is there now would be gone through again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what was chosen in an order that suits several processes.

    A run that a test starts is none of them, though it has their environment.
    """
    shares_count = getattr(config, "workerinput", {}).get("workercount", 1)
    if shares_count > 1:
        folders = [item.path.parent.relative_to(TESTS).as_posix() for item in items]
        items[:] = [items[place] for place in in_shares(folders, shares_count)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test without a browser run loops of its own.

    The browser of other tests stays until the last of a process, and its loop, which waits in a
    greenlet, counts as one that runs in this thread.
    """
    loop = None if "browser" in getattr(item, "fixturenames", ()) else _get_running_loop()
    if loop is None:
        return (yield)
    _set_running_loop(None)
    try:
        return (yield)
    finally:
        _set_running_loop(None if loop.is_closed() else loop)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a test has set up for the whole process: commands that run in it set up logging.

    What a later test finds in its output would depend on which tests ran before it.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    # Importing it takes longer than most tests, so only those that use it do.
    structlog = sys.modules.get("structlog")
    if structlog is None or not structlog.is_configured():
        return
    structlog.reset_defaults()
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[ServerProcess]:
    """A server of the test's own, on an empty data directory; the test may kill and restart it."""
    # What is published is started as users start it.
    command = SERVE if pytestconfig.getoption("installed") else None
    with ServerProcess(tmp_path_factory.mktemp("server"), command=command) as process:
        yield process


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that only talk to it. Use ids of your own, and never stop it."""
    with ServerProcess(tmp_path_factory.mktemp("shared-server")) as process:
        yield process


@pytest.fixture(scope="session")
def shared_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """As `shared_server`, but one of three processes, which serve one directory together."""
    directory = tmp_path_factory.mktemp("shared-processes")
    with ServerProcess(directory, "--processes", "3") as process:
        yield process


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Append the log of every server that a failed test has used."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, ServerProcess):
                report.sections.append((f"log of {name}", value.log()))
    return report


@pytest.fixture(scope="session")
def postgres_server_of_session() -> Iterator[PostgresServer]:
    """Return a PostgreSQL server that tests share; each leaves it running."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def nats_server_of_session() -> Iterator[NatsServer]:
    """Return a NATS server that tests share, each with a log of another name or group."""
    with nats_server() as server:
        yield server
