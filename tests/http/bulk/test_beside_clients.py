"""What a bulk job over very much costs others: how long their creates take while it runs."""

import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import pytest

from tests.helpers.measuring import Creating, slowness
from tests.helpers.server import ServerProcess
from troth.core.limits import BULK_RATE_COUNT

PROMISES_COUNT: Final = 150_000
IMPORTED_COUNT: Final = 1_000
HOUR_MS: Final = 3_600_000
CREATES_A_SECOND: Final = 400
CONNECTIONS_COUNT: Final = 4
ROUNDS_COUNT: Final = 5
MEASURED_S: Final = 4.0
MORE_LIMIT_S: Final = 0.010
"""How much longer a create may take at p99 on a quiet machine: one slice, and what it writes."""


def bring(server: ServerProcess) -> None:
    """Import promises that are pending."""
    headers = {"Authorization": f"Bearer {(server.data / 'admin.key').read_text().strip()}"}
    now_ms = int(time.time() * 1000)
    made = {"state": "PENDING", "createdOn": now_ms, "timeout": now_ms + 24 * HOUR_MS}
    for first in range(0, PROMISES_COUNT, IMPORTED_COUNT):
        ids = range(first, first + IMPORTED_COUNT)
        body = {"promises": [made | {"id": f"many-{number}"} for number in ids]}
        status, answered = server.request("POST", "/admin/import", body, headers)
        assert status == 200, answered


def p99_s(server: ServerProcess, prefix: str) -> float:
    """Return the 99th percentile of how long creates take now."""
    with Creating(server, prefix, CREATES_A_SECOND, CONNECTIONS_COUNT) as creating:
        time.sleep(MEASURED_S)
    return quantiles(creating.times_s, n=100)[98]


@pytest.mark.alone
@pytest.mark.scale
@pytest.mark.slow
def test_creates_beside_a_bulk_job(tmp_path: Path) -> None:
    """With the rate that a job has unless it is told another; rounds with and without in turn."""
    job: dict[str, Any] = {"action": "cancel", "filter": {"id": "many-*"}}
    more, alone, beside = [], [], []
    with ServerProcess(tmp_path) as server:
        bring(server)
        for number in range(ROUNDS_COUNT):
            slow = slowness()
            alone.append(p99_s(server, f"alone-{number}"))
            _, made = server.request("POST", "/bulk", job)
            beside.append(p99_s(server, f"beside-{number}"))
            slow = max(slow, slowness())
            more.append((beside[-1] - alone[-1]) / slow)
            _, seen = server.request("GET", f"/bulk/{made['id']}")
            server.request("DELETE", f"/bulk/{made['id']}")
            assert seen["state"] == "running", "it ran all the time"
            assert seen["total"] is None or seen["total"] > PROMISES_COUNT / 2
    print(
        f"p99 of {CREATES_A_SECOND} creates a second: {median(alone) * 1000:.1f} ms, beside a job "
        f"over {PROMISES_COUNT} promises at {BULK_RATE_COUNT}/s {median(beside) * 1000:.1f}; "
        f"{median(more) * 1000:.1f} ms more on a quiet machine"
    )

    assert median(more) <= MORE_LIMIT_S
