"""An account that is disabled starts no function tasks, over restarts too, until it is enabled."""

import contextlib
import http.server
import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client, new_client
from tests.http.function_world import FunctionWorld, created, functions_running, ready_node
from tests.http.tenants import Tenant, tenant
from troth.core.commands import CreateEntry
from troth.http.identity.credentials import Credentials
from troth.shards.placement.withheld import SLICE_COUNT


async def lasting_tenant(world: FunctionWorld, number: int) -> Tenant:
    """An account that the shards know too, so it can be changed."""
    made = tenant(world, number)
    account = credentials_of(world).account(made.account_id)
    assert account is not None
    await world.shards.ask(CreateEntry(account))
    return made


def credentials_of(world: FunctionWorld) -> Credentials:
    return world.api.credentials


async def test_what_waits_starts_when_the_account_is_enabled_again() -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        operator = tenant(world)
        customer = await lasting_tenant(world, 2)
        function_id = await world.function(customer.account_id)
        waiting = await created(customer, function_id)
        account_path = f"/admin/accounts/{customer.account_id}"

        disabled = await world.send("PATCH", account_path, {"disabled": True}, operator.headers)
        assert disabled.status == 200
        node = await ready_node(world, nursery, shared=True)
        assert node.orders_count == 0
        assert world.api.function_placement.statistics().withheld_count == 1

        enabled = await world.send("PATCH", account_path, {"disabled": False}, operator.headers)
        assert enabled.status == 200
        assert (await node.take())[0] == waiting
        nursery.cancel_scope.cancel()


class Host(http.server.ThreadingHTTPServer):
    """A host whose functions do not answer until `go_on` is set. `bodies` are what came."""

    def __init__(self) -> None:
        host = self
        self.bodies: queue.Queue[bytes] = queue.Queue()
        self.go_on = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                host.bodies.put(self.rfile.read(int(self.headers["Content-Length"])))
                host.go_on.wait()
                # The server that called may have been killed meanwhile.
                with contextlib.suppress(OSError):
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.go_on.set()
        made.shutdown()
        thread.join()


def withheld_count(observer: Client) -> float:
    status, text = observer.send("GET", "/metrics")
    assert status == 200
    found = re.search(rb"^troth_function_tasks_withheld (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


WAITING_COUNT = 2 * SLICE_COUNT


@pytest.mark.slow
def test_a_start_begins_nothing_of_a_disabled_account(tmp_path: Path, host: Host) -> None:
    settings = ("--function-private-networks", "--function-calls-per-host-count", "1")
    with ServerProcess(tmp_path, *settings) as server:
        client = new_client(server, "customer")
        operator = Client(server, (server.data / "admin.key").read_text().strip())
        operator.json("POST", "/admin/accounts", {"name": "observer"})
        wanted = {"account": "observer", "scopes": ["metrics:read"]}
        observer = Client(server, operator.json("POST", "/admin/tokens", wanted)["token"])
        wanted = {"name": "f", "type": "HTTP", "url": f"http://127.0.0.1:{host.server_port}/"}
        function_id = client.json("POST", "/v1/function", wanted)["id"]
        for number in range(1 + WAITING_COUNT):
            client.json("POST", f"/v1/task/{function_id}", number)
        assert host.bodies.get(timeout=60) == b"0"

        operator.json("PATCH", "/admin/accounts/customer", {"disabled": True})
        server.restart()
        # Also the one that was running: its answer was lost with the server.
        deadline = time.monotonic() + 60
        while withheld_count(observer) < WAITING_COUNT:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert host.bodies.empty()

        operator.json("PATCH", "/admin/accounts/customer", {"disabled": False})
        server.restart()
        host.go_on.set()
        called: set[int] = set()
        while len(called - {0}) < WAITING_COUNT:
            called.add(int(host.bodies.get(timeout=60)))
        assert called <= set(range(1 + WAITING_COUNT))
        assert withheld_count(observer) == 0
