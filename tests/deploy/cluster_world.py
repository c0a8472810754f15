"""What the tests of `deploy/cluster/` share: its files as data, and programs on loopback."""

import contextlib
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import yaml

from tests.deploy.proxies import replaced
from tests.helpers.nats import NatsServer
from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess, free_ports
from tests.helpers.tools import tool
from troth.cli.command import troth

CLUSTER: Final = ROOT / "deploy" / "cluster"
NODES: Final = ("one", "two", "three")
PASSWORD: Final = "not-a-secret"
_PODMAN: Final = "podman "


def composed(name: str) -> dict[str, Any]:
    """Return what a file for compose says."""
    found: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return found


def comment_commands(path: Path) -> list[str]:
    """Return the commands in a file's comments: the lines that are indented in them."""
    text = path.read_text().replace("\\\n#", " ")
    return [line.strip() for line in re.findall(r"^#   +(\S.*)$", text, re.MULTILINE)]


def prepared(name: str, directory: Path) -> dict[str, dict[str, str]]:
    """Run the commands by which a file for compose says to prepare; the variables, by file."""
    place = directory / "cluster"
    place.mkdir()
    (directory / "secrets").mkdir()
    lines = [line for line in comment_commands(CLUSTER / name) if not line.startswith(_PODMAN)]
    subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=place, check=True, timeout=60)
    found = {}
    for path in (directory / "secrets").glob("*.env"):
        assert path.stat().st_mode & 0o077 == 0, "others can read it"
        found[f"../secrets/{path.name}"] = variables(path)
    return found


def variables(path: Path) -> dict[str, str]:
    """Return what a file of variables sets."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def parsed(words: list[str]) -> list[str]:
    """Return the names of the commands that words are; fail if `troth` does not take them."""
    context = troth.make_context("troth", ["version"])
    command: Any = troth
    names: list[str] = []
    while hasattr(command, "get_command"):
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"there is no troth {' '.join([*names, name])}"
        names.append(name)
    command.make_context(names[-1], words)
    return names


def troth_commands(path: Path) -> list[list[str]]:
    """Return the words of each command of `troth` in a file's comments."""
    found = []
    for line in comment_commands(path):
        called = re.search(r"(?:^|\s)troth ((?:account|cluster|data|token) .*)", line)
        if called is not None and not line.startswith("kubectl -n troth create"):
            found.append(shlex.split(called[1]))
    return found


class Front(NamedTuple):
    """What stands in front of nodes: the URLs of the API and of streams."""

    url: str
    poll_url: str


@contextlib.contextmanager
def haproxy(
    directory: Path, nodes: Mapping[str, ServerProcess], balance: str = "leastconn"
) -> Iterator[Front]:
    """Run HAProxy in front of nodes, which have the names in its file.

    With the balance `roundrobin` each request goes to the next node, also those of one connection.
    """
    api, poll = free_ports(2)
    texts = {"bind :8001": f"bind 127.0.0.1:{api}", "bind :8002": f"bind 127.0.0.1:{poll}"}
    texts |= {"maxconn 20000": "maxconn 200", " port 8001": ""}
    texts["balance leastconn"] = f"balance {balance}"
    for name, node in nodes.items():
        node_api, node_poll = (urlsplit(url).port for url in (node.url, node.poll_url))
        texts[f"{name} {name}:8001"] = f"{name} 127.0.0.1:{node_api}"
        texts[f"{name} {name}:8002"] = f"{name} 127.0.0.1:{node_poll} port {node_api}"
    path = directory / "haproxy.cfg"
    path.write_text(replaced((CLUSTER / "haproxy.cfg").read_text(), texts))
    command = [tool("haproxy", "haproxy"), "-W", "-db", "-f", str(path)]
    with (
        (directory / "haproxy.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            yield Front(f"http://127.0.0.1:{api}", f"http://127.0.0.1:{poll}")
        finally:
            process.terminate()


@contextlib.contextmanager
def nats_servers(directory: Path, text: str, names: tuple[str, ...]) -> Iterator[list[NatsServer]]:
    """Run NATS servers with the configuration of a file, but for names, on loopback."""
    routes = {
        f"nats://{name}:6222": f"nats://127.0.0.1:{port}"
        for name, port in zip(names, free_ports(len(names)), strict=True)
    }
    servers = []
    for name, route in zip(names, routes.values(), strict=True):
        own = {
            # The helper says these itself.
            "server_name: $NATS_NAME": "",
            "listen: 0.0.0.0:4222": "",
            "http: 0.0.0.0:8222": "",
            "0.0.0.0:6222": route.removeprefix("nats://"),
            "/var/lib/nats": str(directory / name / "js"),
            "$NATS_PASSWORD": PASSWORD,
        }
        servers.append(NatsServer(directory / name, name, replaced(text, {**own, **routes})))
    try:
        for server in servers:
            server.start(waits=False)
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.stop()
