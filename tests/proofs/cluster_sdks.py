"""Published SDKs run every workflow over a cluster, one of whose nodes is killed again and again.

Three nodes share the groups. Every minute one is killed with -9, and started again half a minute
later; then the other one. The workers of the newest SDKs of Python and TypeScript use a node that
stays; with `--front` they use HAProxy in front of all three, so they lose connections too. Each
workflow of `tests/sdks/test_workflows.py` is run over and over until there were enough kills, but
for the one that needs a server of its own.
"""

import argparse
import contextlib
import itertools
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.deploy.cluster_world import NODES, Front, haproxy
from tests.helpers.server import http_json
from tests.helpers.shared_nodes import ENGINES, SharedNodes, place_of, shared_nodes, until_served
from tests.sdks import test_workflows as workflows
from tests.sdks.test_workflows import SDKS, SHORT_TTL_MS, Sdk
from tests.sdks.worker import Worker

from .support import NO_ANSWER

SDK_NAMES: Final = ("python-newest", "typescript-newest")
PATIENCE_S: Final = 120.0
_AGAIN_S: Final = 0.2
_NOT_YET: Final = (502, 503)
_OF_ONE_SERVER: Final = ("test_the_server_is_killed_in_the_middle",)


class PatientServer:
    """What workflows' tests ask through REST: again, with the same idempotency key, if need be."""

    def __init__(self, served: Front) -> None:
        self.url = served.url

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request until it is answered by a node that has an owner for it."""
        headers = {"Idempotency-Key": uuid.uuid4().hex} if body else None
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(*NO_ANSWER):
                status, answer = http_json(method, self.url + path, body, headers)
                if status not in _NOT_YET:
                    return status, answer
            assert time.monotonic() < ends_s, (method, path)
            time.sleep(_AGAIN_S)


class Killer(threading.Thread):
    """Kills one of these nodes every so often, and starts it again after half of that time."""

    def __init__(self, three: SharedNodes, names: tuple[str, ...], interval_s: float) -> None:
        super().__init__(name="killer")
        self.kills_count = 0
        self.error: BaseException | None = None
        self._three = three
        self._names = names
        self._interval_s = interval_s
        self._is_over = threading.Event()

    def run(self) -> None:
        """Kill until told to stop; every node runs then."""
        try:
            for name in itertools.cycle(self._names):
                if self._is_over.wait(self._interval_s / 2):
                    return
                node = self._three.nodes[name]
                print(f"{name} is killed, owners {self._three.owners()}", flush=True)
                node.kill9()
                self.kills_count += 1
                self._is_over.wait(self._interval_s / 2)
                node.start()
        except BaseException as error:
            self.error = error
            raise

    def end(self) -> None:
        """Kill no more."""
        self._is_over.set()
        self.join()


def _tests() -> Iterator[tuple[str, Callable[..., None]]]:
    for name, value in vars(workflows).items():
        if name.startswith("test_") and name not in _OF_ONE_SERVER:
            yield name, value


def _run_workflows(sdk: Sdk, directory: Path, counts: Counter[str]) -> None:
    """Run each workflow once."""
    for name, test in _tests():
        begun_s = time.monotonic()
        arguments: tuple[Any, ...] = (sdk,)
        if "tmp_path" in test.__annotations__:
            path = directory / uuid.uuid4().hex
            path.mkdir()
            arguments = (sdk, path)
        test(*arguments)
        counts[sdk.name] += 1
        print(f"{sdk.name} {name}: {time.monotonic() - begun_s:.1f} s", flush=True)


@contextlib.contextmanager
def _sdk(name: str, server: PatientServer, directory: Path) -> Iterator[Sdk]:
    """Start the workers of an SDK; in the end they stop in good order."""
    command = SDKS[name]()
    suffix = f"{name}-{uuid.uuid4().hex[:8]}"
    with (
        Worker(command, server, f"shop-{suffix}", directory / "shop.log", SHORT_TTL_MS) as shop,
        Worker(command, server, f"house-{suffix}", directory / "house.log", SHORT_TTL_MS) as house,
    ):
        yield Sdk(name, command, server, shop.ready(), house.ready())
        shop.stop()
        house.stop()


def run(engine: str, kills_count: int, interval_s: float, *, with_front: bool) -> str:
    """Run all workflows until there were so many kills; say how often. Raises AssertionError."""
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as closing:
        directory = Path(
            closing.enter_context(tempfile.TemporaryDirectory(prefix="troth-cluster-sdks-"))
        )
        place = closing.enter_context(place_of(engine))
        three = closing.enter_context(
            shared_nodes(directory, place.url, NODES, len(NODES) + 1, place.monitor)
        )
        stays = three.nodes[NODES[0]]
        front = Front(stays.url, stays.poll_url)
        if with_front:
            front = closing.enter_context(haproxy(directory, three.nodes))
            until_served(f"{front.url}/ready", f"{front.poll_url}/ping")
        server = PatientServer(front)
        killer = Killer(three, NODES if with_front else NODES[1:], interval_s)
        killer.start()
        closing.callback(killer.end)
        while killer.kills_count < kills_count:
            assert killer.error is None, killer.error
            for name in SDK_NAMES:
                own = directory / uuid.uuid4().hex
                own.mkdir()
                with _sdk(name, server, own) as sdk:
                    _run_workflows(sdk, own, counts)
    return f"{engine}: {killer.kills_count} kills, workflows: {dict(counts)}"


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="postgres")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--every-s", type=float, default=60.0)
    parser.add_argument("--front", action="store_true", help="through HAProxy, any node is killed")
    arguments = parser.parse_args()
    print(run(arguments.engine, arguments.kills, arguments.every_s, with_front=arguments.front))


if __name__ == "__main__":
    main()
