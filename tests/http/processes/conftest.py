"""One server of three processes with an account, for the tests of this folder."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.helpers.server import ServerProcess
from tests.http.processes.tenancy import SHARDS_COUNT, Tenancy, tenancy_of

_SEVERAL: Final = {"shared_processes", "own_processes", "server_with_accounts", "archived"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests that need several processes as slow: each of these imports the server.

    The newest Python and libraries run those of `test_real_processes.py`.
    """
    for item in items:
        if _SEVERAL.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="package")
def server_with_accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of three processes that has an account."""
    directory = tmp_path_factory.mktemp("processes-with-accounts")
    options = ("--processes", "3", "--shards", str(SHARDS_COUNT))
    more = ("--failed-attempts-limit-count", "0", "--function-private-networks")
    with ServerProcess(directory, *options, *more) as server:
        yield server


@pytest.fixture
def tenancy(server_with_accounts: ServerProcess) -> Iterator[Tenancy]:
    """The server, and connections to all of its processes."""
    with tenancy_of(server_with_accounts) as made:
        yield made
