"""NATS servers of tests: directories of their own, on loopback; nats-server comes from PyPI.

One server is ready within a tenth of a second; three of them need some seconds to agree on who
leads.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .server import free_ports

HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 60.0
ROUTE_PINGS: Final = "ping_interval: 5s, ping_max: 2"
"""As in `deploy/cluster/nats.conf`: what a cut has left of a connection is closed within 15 s."""

_PROGRAM: Final = Path(sys.executable).with_name("nats-server")


class NatsServer:
    """One server. `settings` are lines of its configuration."""

    def __init__(self, place: Path, name: str, *settings: str, host: str = HOST) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self.name = name
        port, monitor_port = free_ports(2)
        self.address = f"{host}:{port}"
        self.url = f"nats://{self.address}"
        self.monitor_url = f"http://{host}:{monitor_port}"
        self.settings = settings

    def start(self, *, waits: bool = True) -> None:
        """Start it; by default wait until it can be used."""
        self._place.mkdir(exist_ok=True)
        configuration = self._place / "nats.conf"
        lines = (
            f"server_name: {self.name}",
            f"listen: {self.address}",
            f"http: {self.monitor_url.removeprefix('http://')}",
            *self.settings,
        )
        configuration.write_text("\n".join(lines))
        with (self._place / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [_PROGRAM, "-c", configuration], stdout=output, stderr=output
            )
        if waits:
            self.wait()

    def wait(self) -> None:
        """Wait until it says that it is well."""
        assert self._process is not None
        ends_s = time.monotonic() + PATIENCE_S
        while not self._is_well():
            output = (self._place / "output").read_text()
            assert self._process.poll() is None, output
            assert time.monotonic() < ends_s, output
            time.sleep(0.02)

    def _is_well(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.monitor_url}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def is_running(self) -> bool:
        """Return whether it was started and not stopped."""
        return self._process is not None

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it by a signal, or kill it; a second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(PATIENCE_S)

    def lose_disk(self) -> None:
        """Remove all that it has stored; it must not run."""
        assert not self.is_running
        shutil.rmtree(self._place / "js")

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Halt all of its threads for a block."""
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task")
        self._process.send_signal(signal.SIGSTOP)
        try:
            while any("\nState:\tT" not in (one / "status").read_text() for one in tasks.iterdir()):
                time.sleep(0.001)  # until then it may answer
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def jetstream(place: Path, sync_interval: str = "always") -> str:
    """Return the setting that enables JetStream."""
    return f'jetstream {{ store_dir: "{place}", sync_interval: {sync_interval} }}'


@contextmanager
def nats_server(*settings: str, sync_interval: str = "always") -> Iterator[NatsServer]:
    """Make and run one server with JetStream."""
    place = Path(tempfile.mkdtemp(prefix="troth-nats-"))
    server = NatsServer(place, "n1", jetstream(place / "js", sync_interval), *settings)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(place)


class NatsCluster:
    """Several servers, one on each host. `url` names all of them."""

    def __init__(self, place: Path, hosts: Sequence[str] = (HOST,) * 3) -> None:
        names = [f"n{number + 1}" for number in range(len(hosts))]
        routes = [
            f"{host}:{port}" for host, port in zip(hosts, free_ports(len(hosts)), strict=True)
        ]
        routed = ", ".join(f'"nats://{route}"' for route in routes)
        self.servers = [
            NatsServer(
                place / name,
                name,
                jetstream(place / name / "js"),
                f"cluster {{ name: troth, listen: {route}, routes: [{routed}], {ROUTE_PINGS} }}",
                host=host,
            )
            for name, route, host in zip(names, routes, hosts, strict=True)
        ]
        self.url = "nats://" + ",".join(server.address for server in self.servers)
        self._timer: threading.Timer | None = None
        self.monitor = ",".join(server.monitor_url for server in self.servers)

    def kill_leader(self, *, and_its_disk: bool = False) -> None:
        """Kill the server that leads the stream."""
        leader = self.leader()
        leader.stop(signal.SIGKILL)
        if and_its_disk:
            leader.lose_disk()

    def kill_for(self, count: int, duration_s: float) -> None:
        """Kill so many servers, and start them again after a while, in another thread."""
        for server in self.servers[:count]:
            server.stop(signal.SIGKILL)

        def start() -> None:
            for server in self.servers[:count]:
                server.start(waits=False)

        timer = self._timer = threading.Timer(duration_s, start)
        timer.start()

    def leader(self, stream: str = "troth_frames_0") -> NatsServer:
        """Return the server that leads a stream, as most of them see it: wait until they do."""
        ends_s = time.monotonic() + PATIENCE_S
        by_name = {server.name: server for server in self.servers}
        while True:
            running = [server for server in self.servers if server.is_running]
            seen = Counter(self._leader(server, stream) for server in running)
            name, count = seen.most_common(1)[0]
            if name in by_name and 2 * count > len(running):
                return by_name[name]
            assert time.monotonic() < ends_s, seen
            time.sleep(0.05)

    def _leader(self, server: NatsServer, stream: str) -> str:
        """Return who leads a stream, as a server sees it; nothing if it knows of none."""
        url = f"{server.monitor_url}/jsz?streams=true"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            accounts = json.load(answer).get("account_details") or ()
        found = (
            str(one.get("cluster", {}).get("leader", ""))
            for account in accounts
            for one in account.get("stream_detail") or ()
            if one["name"] == stream
        )
        return next(found, "")

    def end_outage(self) -> None:
        """Wait until those that were killed for a while have started again."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.join()

    def mend(self) -> None:
        """Start all servers that do not run, and wait until all are well."""
        self.end_outage()
        for server in self.servers:
            if not server.is_running:
                server.start(waits=False)
        for server in self.servers:
            server.wait()


@contextmanager
def nats_cluster(count: int = 3) -> Iterator[NatsCluster]:
    """Make and run several servers that keep copies for each other."""
    place = Path(tempfile.mkdtemp(prefix="troth-nats-"))
    cluster = NatsCluster(place, (HOST,) * count)
    try:
        for server in cluster.servers:
            server.start(waits=False)
        for server in cluster.servers:
            server.wait()
        yield cluster
    finally:
        cluster.end_outage()
        for server in cluster.servers:
            server.stop(signal.SIGKILL)
        shutil.rmtree(place)
