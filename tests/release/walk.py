"""The walk of an operator with the installed package, from the first start to a restored backup.

A server with an account and tokens, TLS by nginx, Prometheus that watches; a backup; `kill -9` and
a lost disk; the alert; the restored backup, and the end of the alert. `make installed` runs it.
"""

import json
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.deploy import proxies
from tests.helpers.prometheus import Prometheus
from tests.helpers.server import SERVE, ServerProcess

pytestmark = pytest.mark.slow

FAR_MS: Final = 4_102_444_800_000
COMMAND_S: Final = 60.0


class Operator(NamedTuple):
    """Who runs commands of `troth` against one server."""

    server: ServerProcess

    def run(self, *arguments: str) -> str:
        """Run a command, which has to succeed; return what it prints."""
        done = subprocess.run(
            (sys.executable, "-m", "troth", *arguments, "--data", str(self.server.data)),
            cwd=self.server.directory,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def ask(self, *arguments: str) -> str:
        """Run a command that talks to the server."""
        return self.run(*arguments, "--server", self.server.url)


class Client(NamedTuple):
    """A program that reaches the server by TLS, with a token."""

    proxy: proxies.Proxy
    token: Mapping[str, str]

    def create(self, promise_id: str) -> None:
        """Create a promise, which is acknowledged."""
        body = json.dumps({"id": promise_id, "timeout": FAR_MS}).encode()
        status, _, said = self.proxy.ask("POST", "/promises", body, headers=self.token)
        assert status == 201, said

    def status_of(self, promise_id: str) -> int:
        """Return the status of the answer about a promise."""
        return self.proxy.ask("GET", f"/promises/{promise_id}", headers=self.token)[0]


def test_an_operator_walks_from_the_first_start_to_a_restored_backup(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server", "--url", f"https://{proxies.HOST}", command=SERVE)
    port = urllib.parse.urlsplit(server.url).port
    assert port is not None
    operator = Operator(server)
    backup = str(tmp_path / "backup.snapshot")
    with server:
        operator.ask("account", "add", "ops")
        token = operator.ask(
            *("token", "create", "ops", "--scope", "promises:read", "--scope", "promises:write")
        )
        scraping = operator.ask("token", "create", "ops", "--scope", "metrics:read")
        with (
            proxies.running("nginx", tmp_path / "nginx", port) as proxy,
            Prometheus(tmp_path / "prometheus", port, scraping.splitlines()[-1]) as prometheus,
        ):
            client = Client(proxy, {"Authorization": f"Bearer {token.splitlines()[-1]}"})
            assert proxy.ask("GET", "/promises/before")[0] == 401, "strangers are kept away"
            client.create("before")
            prometheus.wait_resolved()

            operator.ask("snapshot", "create", backup)
            verified = command("snapshot", "verify", backup)
            assert "Traceback" not in verified
            client.create("after")

            server.kill9()
            assert client.status_of("before") >= 502
            fired = prometheus.wait_firing({"TrothDown"})
            assert f"127.0.0.1:{port}" in fired["TrothDown"]["summary"]

            lost = server.data.rename(tmp_path / "lost")
            operator.run("snapshot", "restore", backup)
            server.start()
            assert client.status_of("before") == 200
            assert client.status_of("after") == 404, "a backup has what was there when it was made"
            prometheus.wait_resolved()
    written = command("log", "dump", "--data", str(lost), "--id", "after")
    assert "promise-created" in written, "what was acknowledged was on the disk"


def command(*arguments: str) -> str:
    """Run a command that needs no server; return what it prints."""
    done = subprocess.run(
        (sys.executable, "-m", "troth", *arguments),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=True,
    )
    return done.stdout
