"""How often the log is synced for a step by a plain HTTP worker, with one step in flight.

    python -m tests.proofs.syncs --steps 300

A step is: create, message, claim, complete; the caller reads the result. With a subscription, which
is a request of its own that is acknowledged, the caller is told instead.
"""

import argparse
import http.client
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.helpers.server import ServerProcess

TIMEOUT_MS: Final = 4_102_444_800_000
STREAM: Final = "poll://any@workers/worker"
WARM_UP_COUNT: Final = 10
_SYNCS: Final = "troth_log_sync_duration_seconds_count"


class Client:
    """A caller, and the worker that serves it."""

    def __init__(self, server: ServerProcess) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self._connection = http.client.HTTPConnection(host, int(port))
        stream = http.client.HTTPConnection(host, int(port))
        stream.request("GET", "/poll/workers/worker")
        self._stream = stream.getresponse()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Send a request, and return the body of its answer."""
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, path, content, headers)
        answer = self._connection.getresponse()
        found = answer.read()
        assert answer.status < 300, found
        return found

    def step(self, identifier: str, *, subscribes: bool) -> None:
        """Do a step."""
        invoke = {"resonate:invoke": STREAM}
        self.ask("POST", "/promises", {"id": identifier, "timeout": TIMEOUT_MS, "tags": invoke})
        if subscribes:
            wish = {"id": "caller", "timeout": TIMEOUT_MS, "recv": STREAM}
            self.ask("POST", f"/promises/subscribe/{identifier}", wish)
        self._await_message("invoke")
        claim = {"counter": 1, "processId": "worker", "ttl": 60_000}
        self.ask("POST", "/tasks/claim", {"id": f"__invoke:{identifier}", **claim})
        self.ask("PATCH", f"/promises/{identifier}", {"state": "RESOLVED"})
        if subscribes:
            self._await_message("notify")
        else:
            assert b"RESOLVED" in self.ask("GET", f"/promises/{identifier}")

    def _await_message(self, kind: str) -> None:
        while True:
            line = self._stream.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data:") and json.loads(line[5:])["type"] == kind:
                return

    def syncs_count(self) -> int:
        """Return how many syncs there were."""
        for line in self.ask("GET", "/metrics").decode().splitlines():
            if line.startswith(_SYNCS):
                return int(float(line.split()[-1]))
        raise AssertionError(_SYNCS)


def measure(steps_count: int, *, subscribes: bool) -> float:
    """Return how many syncs a step takes."""
    with (
        tempfile.TemporaryDirectory(prefix="troth-syncs-") as directory,
        ServerProcess(Path(directory) / "data") as server,
    ):
        client = Client(server)
        for number in range(WARM_UP_COUNT):
            client.step(f"warm-{number}", subscribes=subscribes)
        before_count = client.syncs_count()
        for number in range(steps_count):
            client.step(f"step-{number}", subscribes=subscribes)
        return (client.syncs_count() - before_count) / steps_count


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    steps_count = parser.parse_args().steps
    print(f"syncs a step: {measure(steps_count, subscribes=False):.2f}")
    print(f"with a subscription: {measure(steps_count, subscribes=True):.2f}")


if __name__ == "__main__":
    main()
