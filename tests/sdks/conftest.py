"""Which workflows `make test` runs with which SDK; `make sdks` runs all with each of them.

The newest Python SDK and the newest engine for TypeScript run every workflow. The others, which
share most with one of these, run what differs most among SDKs: the first call of all, and what a
killed worker or server leaves behind. So do those that have a server of several processes.
"""

from typing import Final

import pytest

WHOLE: Final = frozenset({"python-newest", "typescript-newest"})
ALWAYS: Final = frozenset(
    {
        "test_hello",
        "test_a_worker_is_killed_in_the_middle",
        "test_the_server_is_killed_in_the_middle",
    }
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what only `make sdks` runs, before anything is chosen by its markers."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            sdk = item.callspec.params.get("sdk")
            if sdk is not None and sdk not in WHOLE and item.originalname not in ALWAYS:
                item.add_marker(pytest.mark.sdks)
