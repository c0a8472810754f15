"""What the tests of the simulation share."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def silence() -> Iterator[None]:
    """The server's warnings about what is injected would cost more time than the runs."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)
