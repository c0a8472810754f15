"""Which workflows `make test` runs with which SDK; `make sdks` runs all with each of them.

The newest Python SDK and the newest engine for TypeScript run every workflow. The others, which
share most with one of these, run what differs most among SDKs: the first call of all, and what a
killed worker or server leaves behind. So does the engine for TypeScript with a server of several
processes.
"""

from typing import Final

import pytest

WHOLE: Final = frozenset({"python-newest", "typescript-newest"})
REPEATING: Final = "python-newest-over-processes"
"""It has its turn with a server of one process, and the other engine with one of several."""
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
            is_chosen = sdk in WHOLE or (sdk != REPEATING and item.originalname in ALWAYS)
            if sdk is not None and not is_chosen:
                item.add_marker(pytest.mark.sdks)
