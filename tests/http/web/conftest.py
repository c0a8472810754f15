"""Servers that need credentials, for all tests of the web UI's side that only talk to one."""

from collections.abc import Iterator

import pytest

from tests.helpers.server import ServerProcess

from .closed_server import Closed


@pytest.fixture(scope="session", params=["--hot-lane", "--no-hot-lane"])
def closed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Closed]:
    """A server with an account, with the lane and without."""
    directory = tmp_path_factory.mktemp("closed")
    with ServerProcess(directory, request.param) as server:
        yield Closed(server)
