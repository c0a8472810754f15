"""Accounts on real servers: from the command line, running and stopped, on both ways and ports."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.examples.program import Program
from tests.helpers.forks import run_forked
from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client
from tests.http.api.test_authentication import GUARDED, target_of
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.wire.fields import example

pytestmark = pytest.mark.slow

CLOSED_ADDRESS: Final = "127.0.0.1:1"
SOON_S: Final = 1.0
REVOKED_S: Final = 30.0  # at once; the rest is for machines that do other things, too
EVERY: Final = tuple(scope.value for scope in Scope)


def troth(*arguments: str, environment: dict[str, str] | None = None, status: int = 0) -> str:
    """Run a command line; what it prints."""
    inherited = {key: text for key, text in os.environ.items() if not key.startswith("TROTH_")}
    # Not the usual port, where a server that does not belong to the test may run.
    own = {"TROTH_LISTEN": CLOSED_ADDRESS, **(environment or {})}
    ended = run_forked(arguments, inherited | own, Path("/"))
    assert ended.returncode == status, ended
    assert "Traceback" not in ended.stderr
    return ended.stdout if status == 0 else ended.stderr


class Operated:
    """A server and whoever runs it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """Run a command with the operator's key."""
        place = ("--data", str(self.server.data), "--server", self.server.url)
        return troth(*arguments, *place, status=status)

    def token(self, *scopes: str) -> str:
        """Make a token, without a command; its text."""
        operator = Client(self.server, (self.server.data / "admin.key").read_text().strip())
        body = {"account": "billing", "scopes": list(scopes)}
        return str(operator.json("POST", "/admin/tokens", body)["token"])

    def newest_tokens(self, count: int) -> list[dict[str, Any]]:
        """What a command tells of the last tokens, the oldest first."""
        listed: list[dict[str, Any]] = json.loads(self("token", "list", "--json"))
        return listed[-count:]


@pytest.fixture(scope="module", params=["--hot-lane", "--no-hot-lane"])
def operated(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Operated]:
    """A server with an account, for all tests of this module."""
    patience = ("--failed-attempts-limit-count", "0")
    directory = tmp_path_factory.mktemp("operated")
    with ServerProcess(directory, request.param, *patience) as server:
        operated = Operated(server)
        operated("account", "add", "billing")
        yield operated


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_all_rows_are_judged_alike_on_both_ways(operated: Operated) -> None:
    """Quart judges as in test_authentication.py; here the lane does, where it serves a row."""
    url = operated.server.url
    right, lacking = operated.token(*EVERY), operated.token("tasks:read", "metrics:read")
    with httpx.Client(base_url=url) as client:
        for row in GUARDED:
            if row.any_scope or row.scope in {Scope.TASKS_READ, Scope.METRICS_READ, Scope.ADMIN}:
                continue
            if any(one.media_type == "text/event-stream" for one in row.successes):
                continue
            body = None if row.body is None else json.dumps(example(row.body))
            for headers, status, code in (
                ({}, 401, Code.UNAUTHORIZED),
                (bearer("troth_" + "x" * 43), 401, Code.UNAUTHORIZED),
                (bearer(lacking), 403, Code.FORBIDDEN_SCOPE),
            ):
                answer = client.request(row.method, target_of(row), content=body, headers=headers)
                assert answer.status_code == status, (row.name, answer.text)
                assert answer.json()["error"]["code"] == code
            answer = client.request(row.method, target_of(row), content=body, headers=bearer(right))
            assert answer.status_code != 401, row.name


def wait_for_401(url: str, token: str) -> None:
    """Fails unless a token stops working soon."""
    until = time.monotonic() + REVOKED_S
    while httpx.get(f"{url}/promises/a", headers=bearer(token)).status_code != 401:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_revoked_token_and_its_streams_end(operated: Operated) -> None:
    server = operated.server
    token = operated.token("promises:read", "promises:write")
    (listed,) = operated.newest_tokens(1)
    streams = [
        httpx.stream("GET", target, headers=bearer(token), timeout=60)
        for target in (f"{server.url}/poll/g/a", f"{server.poll_url}/g/b")
    ]
    with streams[0] as first, streams[1] as second:
        bodies = [first.iter_bytes(), second.iter_bytes()]
        assert [next(body) for body in bodies] == [b": connected\n\n"] * 2
        operated("token", "revoke", listed["id"])
        wait_for_401(server.url, token)
        for body in bodies:
            assert list(body) == [], "the stream ends"


def test_accounts_outlive_the_server(operated: Operated) -> None:
    server = operated.server
    create = ("token", "create", "billing", "--scope", "promises:read")
    kept, revoked = operated(*create).strip(), operated(*create).strip()
    first, second = operated.newest_tokens(2)
    operated("token", "revoke", second["id"])
    server.kill9()
    server.start()

    assert httpx.get(f"{server.url}/promises/a", headers=bearer(kept)).status_code == 404
    assert httpx.get(f"{server.url}/promises/a", headers=bearer(revoked)).status_code == 401
    assert httpx.get(f"{server.url}/promises/a").status_code == 401
    assert httpx.get(f"{server.poll_url}/g/w").status_code == 401
    again = operated.newest_tokens(2)[0]
    # It has been used just now, which is noted some time later.
    assert again | {"lastUsedOn": None} == first | {"lastUsedOn": None}


def test_both_ways_take_the_first_of_several_headers(operated: Operated) -> None:
    token = operated.token("promises:read")
    host, port = operated.server.url.removeprefix("http://").split(":")
    right, wrong = f"Authorization: Bearer {token}\r\n", "Authorization: Bearer x\r\n"
    for headers, status in ((right + wrong, b"404"), (wrong + right, b"401")):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(f"GET /promises/a HTTP/1.1\r\nHost: h\r\n{headers}\r\n".encode())
            assert connection.recv(65536).split()[1] == status


def test_client_commands_take_a_token(operated: Operated) -> None:
    token = operated.token("promises:read", "promises:write")
    place = ("--server", operated.server.url)
    create = ("promises", "create", "made-by-a-command", "--timeout", "1h", *place)

    assert "Created" in troth(*create, "--token", token)
    get = ("promises", "get", "made-by-a-command", *place)
    shown = troth(*get, environment={"TROTH_TOKEN": token})
    assert "PENDING" in shown
    assert "PENDING" in troth(*get, "--user", "x", "--password", token)
    refused = troth(*get, status=1)
    assert "TROTH_TOKEN" in refused
    for wrong in ("a b", "ä", "a\nb"):
        refused = troth(*get, "--token", wrong, status=2)
        assert wrong not in refused
    troth(*get, "--token", token, "--user", "x", status=2)


def test_a_published_sdk_works_with_a_token(operated: Operated, tmp_path: Path) -> None:
    """It knows no tokens, but user names and passwords in URLs, for calls and streams alike."""
    login = f"worker:{operated.token('promises:read', 'promises:write')}"

    def start(*arguments: str) -> Program:
        name = "order_over_two_workers"
        return Program(operated.server, tmp_path / "out", name, *arguments, login=login)

    with start("start", "order-1", "apples", "3") as order, start("shop"), start("warehouse"):
        assert order.result() == "3 apples from shelf-a for 6"


# --- the operator, with the server stopped --------------------------------------------------------


def test_everything_works_with_the_server_stopped(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    place = ("--data", str(server.data))
    troth("account", "list", *place, status=1)
    assert not server.data.exists()

    account_id = troth("account", "add", "billing", *place).strip()
    token = troth("token", "create", account_id, "--scope", "promises:read", *place).strip()
    assert (server.data / "admin.key").stat().st_mode & 0o777 == 0o600
    with server:
        assert httpx.get(f"{server.url}/promises/a", headers=bearer(token)).status_code == 404
        # It is found to be served; where is another question.
        assert "--server" in troth("account", "list", *place, status=3)
        # What is in the environment for other commands does not get in the way of these.
        for environment in (
            {"TROTH_LISTEN": server.url.removeprefix("http://"), "TROTH_TOKEN": token},
            {"TROTH_SERVER": server.url, "TROTH_USER": "x", "TROTH_PASSWORD": "y"},
        ):
            assert "billing" in troth("account", "list", *place, environment=environment)
        refused = troth(
            *("account", "list", *place, "--server", server.url, "--token", token), status=1
        )
        assert str(Code.FORBIDDEN_SCOPE.value) in refused
    troth("account", "disable", "billing", *place, environment={"TROTH_SERVER": server.url})
    with server:
        assert httpx.get(f"{server.url}/promises/a", headers=bearer(token)).status_code == 401
    troth("account", "enable", "billing", *place)
    shown = troth("account", "log", *place)
    acts = [line.split()[1] for line in shown.splitlines()[1:]]
    assert acts == ["account.add", "token.create", "account.disable", "account.enable"]
    key = (server.data / "admin.key").read_text().strip()
    written = (server.data / "audit.log").read_text()
    assert token not in written
    assert key not in written
    refused = troth("token", "create", "nobody", "--scope", "admin", *place, status=1)
    assert str(Code.ACCOUNT_NOT_FOUND.value) in refused


def test_no_second_directory_is_made_while_a_server_runs(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        at_server = {"TROTH_LISTEN": server.url.removeprefix("http://")}
        elsewhere = ("--data", str(tmp_path / "elsewhere"))
        for environment in (at_server, {"TROTH_SERVER": server.url}):
            refused = troth("account", "add", "a", *elsewhere, environment=environment, status=1)
            assert server.url in refused
            assert "--data" in refused
        assert not (tmp_path / "elsewhere").exists()
        # The server's own directory is the one that is meant, and it is asked.
        troth("account", "add", "a", "--data", str(server.data), environment=at_server)
        assert httpx.get(f"{server.url}/promises/a").status_code == 401


def test_accounts_of_a_cluster_need_one_of_its_servers(tmp_path: Path) -> None:
    cluster = {"TROTH_CLUSTER": "orders", "TROTH_LOG": "postgresql://nowhere/troth"}
    refused = troth("account", "add", "a", "--data", str(tmp_path), environment=cluster, status=1)
    assert "Start one here" in refused
    assert str(tmp_path) in refused


def test_a_server_for_one_command_sends_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as receiver:
        receiver.settimeout(0)
        address = f"http://127.0.0.1:{receiver.getsockname()[1]}/"
        server = ServerProcess(tmp_path)
        with server:
            body = {
                "id": "a",
                "timeout": 4_102_444_800_000,
                "tags": {"resonate:invoke": address, "resonate:delay": "0"},
            }
            assert httpx.post(f"{server.url}/promises", json=body).status_code == 201
            time.sleep(SOON_S / 2)  # the server may have begun to send; nobody answers
        while True:
            try:
                receiver.accept()[0].close()
            except BlockingIOError:
                break
        troth("account", "add", "billing", "--data", str(server.data))
        with pytest.raises(BlockingIOError):
            receiver.accept()


def test_the_key_goes_to_servers_on_this_machine_only(tmp_path: Path) -> None:
    place = ("--data", str(tmp_path / "data"))
    troth("account", "add", "billing", *place)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        # A name that means this machine but does not say so: nobody knows where it leads.
        url = f"http://127.0.0.1.nip.invalid:{listener.getsockname()[1]}"
        troth("account", "list", *place, "--server", url, status=3)
        key = (tmp_path / "data" / "admin.key").read_text().strip()
        command = [sys.executable, "-m", "troth", "account", "list", *place, "--server"]
        local = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with subprocess.Popen([*command, local], stderr=subprocess.PIPE) as process:
            connection, _ = listener.accept()
            with connection:
                assert key.encode() in connection.recv(65536)
            process.wait(60)


def test_other_machines_are_let_in_when_there_is_an_account(tmp_path: Path) -> None:
    anywhere = ("--listen", "0.0.0.0:0", "--poll-listen", "none")
    place = ("--data", str(tmp_path / "data"))
    refused = troth("serve", *anywhere, *place, status=2)
    assert "account" in refused

    troth("account", "add", "billing", *place, environment={"TROTH_LISTEN": "0.0.0.0:0"})
    ended = subprocess.Popen(
        [sys.executable, "-m", "troth", "serve", *anywhere, *place], stderr=subprocess.PIPE
    )
    with ended as process:
        assert process.stderr is not None
        assert b" ready " in process.stderr.readline()
        process.terminate()


def test_an_existing_directory_without_an_account_is_not_enough(tmp_path: Path) -> None:
    with ServerProcess(tmp_path):
        pass
    anywhere = ("--listen", "0.0.0.0:0", "--poll-listen", "none")
    refused = troth("serve", *anywhere, "--data", str(tmp_path / "data"), status=1)

    assert "troth account add" in refused


def test_failed_attempts_are_limited_on_the_lane_too(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        operated = Operated(server)
        operated("account", "add", "billing")
        token = operated.token("promises:read")
        with httpx.Client(base_url=server.url) as client:
            wrong = base64.b64encode(b"a:b").decode()
            statuses = [
                client.get("/promises/a", headers={"Authorization": f"Basic {wrong}"}).status_code
                for _ in range(12)
            ]
            refused = client.get("/promises/a", headers=bearer("x" * len(token)))
            answer = client.get("/promises/a", headers=bearer(token))

        assert statuses == [401] * 10 + [429] * 2
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) <= 60
        assert answer.status_code == 404, "a token that works need not wait"
        assert "billing" in operated("account", "list"), "the operator can always help"
