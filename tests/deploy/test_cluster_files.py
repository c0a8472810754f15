"""The files of `deploy/cluster/`: read, held against one another, the image and `troth`; and run.

No container engine, running systemd or Kubernetes is at hand. What the files say is run on
loopback: the same settings for three nodes, PostgreSQL or three NATS servers, HAProxy.
"""

import base64
import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from tests.deploy.cluster_world import (
    CLUSTER,
    NODES,
    PASSWORD,
    comment_commands,
    composed,
    haproxy,
    nats_servers,
    parsed,
    prepared,
    troth_commands,
    variables,
)
from tests.deploy.containerfile import Stage, read
from tests.deploy.proxies import replaced
from tests.deploy.test_containers import IMAGE, manifest_problems
from tests.deploy.test_systemd import UNITS
from tests.helpers.nats import ROUTE_PINGS
from tests.helpers.postgres import PostgresServer
from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess, free_ports, http_json
from tests.helpers.tools import tool
from troth.cli import command
from troth.core.limits import SHUTDOWN_TIMEOUT_MS
from troth.http.documents.table import API_ENDPOINTS
from troth.http.links.cluster_secret import read_cluster_secret
from troth.http.settings.settings import Settings
from troth.http.settings.sources import load

COMPOSED: Final = ("compose-postgres.yaml", "compose-nats.yaml")
ENVIRONMENTS: Final = ("postgres.env", "nats.env")
TAKEOVER_LIMIT_S: Final = 180.0


@pytest.fixture(scope="module")
def image() -> Stage:
    """The last stage of the Containerfile: what runs."""
    return read(ROOT / "deploy" / "Containerfile")[-1]


@pytest.fixture(scope="module", params=["troth.yaml", "nats.yaml"])
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The objects of a file for Kubernetes."""
    return [*yaml.safe_load_all((CLUSTER / "kubernetes" / request.param).read_text())]


def hosts_of(settings: Settings) -> set[str]:
    """Return the names of the machines that keep the log."""
    urls = [settings.log or "", *(settings.nats_monitor or "").split(",")]
    names = ",".join(urlsplit(url).netloc.rpartition("@")[2] for url in urls if url)
    return {name.partition(":")[0] for name in names.split(",")}


@pytest.mark.parametrize("name", COMPOSED)
def test_compose_names_what_there_is(name: str, image: Stage, tmp_path: Path) -> None:
    compose, files = composed(name), prepared(name, tmp_path)
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", [])) <= set(services)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (CLUSTER / source).is_file(), source
            else:
                assert source in compose["volumes"]
        assert service.get("env_file") in {None, *files}
    published = services["proxy"]["ports"]
    assert {port.split(":")[2] for port in published} == set(image.last("EXPOSE").words)
    assert all(port.startswith("127.0.0.1:") for port in published)
    for node in NODES:
        service = services[node]
        assert service["image"] == IMAGE
        environment = {
            **image.environment,
            **files[service["env_file"]],
            **service["environment"],
        }
        settings = load(
            None, {key: environment[key] for key in environment if key[:6] == "TROTH_"}, {}
        )
        assert (settings.node, settings.cluster) == (node, "orders")
        assert hosts_of(settings) <= set(services)
        assert settings.basic_auth.keys() == {"ops"}
        assert settings.mesh_listen is not None
        assert settings.mesh_listen.host == node
        (secret,) = service["secrets"]
        assert str(settings.cluster_secret_file) == f"/run/secrets/{secret}"
        read_cluster_secret(tmp_path / "cluster" / compose["secrets"][secret]["file"])
        assert service["volumes"] == [f"{node}:{image.last('VOLUME').text}"]
    create = services["create"]
    environment = {**files[create["env_file"]], **create.get("environment", {})}
    assert environment["TROTH_LOG"] == settings.log or environment["TROTH_LOG"] in str(settings.log)
    assert parsed([*create["command"], "--log", environment["TROTH_LOG"]]) == ["cluster", "create"]
    assert create["command"][2] == settings.cluster


def test_the_proxy_and_nats_are_of_the_services() -> None:
    proxy = (CLUSTER / "haproxy.cfg").read_text()
    services = composed("compose-nats.yaml")["services"]
    routes = re.findall(r"nats://(nats-\d):6222", (CLUSTER / "nats.conf").read_text())

    assert re.findall(r"server (\w+) (\w+):8001", proxy) == [(node, node) for node in NODES]
    assert re.findall(r"server (\w+) (\w+):8002", proxy) == [(node, node) for node in NODES]
    assert {*routes, *NODES, "proxy", "create"} == set(services)
    assert [services[name]["environment"]["NATS_NAME"] for name in routes] == routes


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(CLUSTER.rglob("*")) if path.suffix in {".yaml", ".env", ".conf"}],
    ids=lambda path: path.relative_to(CLUSTER).as_posix(),
)
def test_the_commands_in_comments_exist(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROTH_LOG", "postgresql://where.commands/run")
    found = [" ".join(parsed(words)) for words in troth_commands(path)]

    if path.name in {*COMPOSED, "troth.yaml"}:
        assert {"account add", "cluster status"} <= set(found)
    if path.suffix == ".env":
        assert found == ["cluster create"]
    for line in comment_commands(path):
        subprocess.run(["bash", "-nc", line], check=True, timeout=60)
        for file in re.findall(r"(?:--file|-f|-m \d+) (\S+\.(?:yaml|env|conf|service))", line):
            assert (path.parent / file).exists(), file


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_settings_of_machines_exist(name: str) -> None:
    path = CLUSTER / "systemd" / name
    found = variables(path)
    settings = load(None, {key: found[key] for key in found if key[:6] == "TROTH_"}, {})
    (create,) = troth_commands(path)

    assert settings.cluster == create[2]
    assert settings.is_only_for_this_machine is False
    assert settings.mesh_listen is not None
    assert f"{settings.cluster_secret_file})" in path.read_text()
    assert settings.basic_auth
    assert hosts_of(settings) == hosts_of(load(None, {"TROTH_LOG": create[4]}, {}))


def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze", "systemd")
    unit = (UNITS / "troth.service").read_text()
    (tmp_path / "troth.service").write_text(unit.replace("/opt/troth/bin/troth", "/bin/true"))
    added = tmp_path / "troth.service.d"
    added.mkdir()
    shutil.copy(CLUSTER / "systemd" / "troth-cluster.conf", added)
    nats = (CLUSTER / "systemd" / "nats.service").read_text()
    (tmp_path / "nats.service").write_text(nats.replace("/usr/local/bin/nats-server", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", *(str(path) for path in tmp_path.glob("*.service"))],
        capture_output=True,
        text=True,
        check=False,
    )

    said = [line for line in done.stderr.splitlines() if "troth" in line or "nats" in line]
    assert (done.returncode, said) == (0, [])
    shown = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", str(tmp_path / "nats.service")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown.stdout)
    assert found is not None, shown.stdout
    assert float(found[1]) < 3.0, shown.stdout


def test_kubernetes_would_take_the_manifests(manifests: list[dict[str, Any]]) -> None:
    for one in manifests:
        assert manifest_problems(one) == [], one["metadata"]["name"]
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(names) == len(set(names))
    by_kind = {one["kind"]: one for one in manifests}
    spec = by_kind["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    services = [one for one in manifests if one["kind"] == "Service"]
    assert spec["serviceName"] in {one["metadata"]["name"] for one in services}
    selectors = [one["spec"]["selector"] for one in services]
    selectors += [by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    selectors += [spec["selector"]["matchLabels"]]
    assert all(selector == labels for selector in selectors)
    (container,) = spec["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    for service in services:
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port.get("targetPort", port["name"])]
    claims = [one["metadata"]["name"] for one in spec.get("volumeClaimTemplates", [])]
    volumes = {one["name"] for one in spec["template"]["spec"]["volumes"]}
    every = [container, *spec["template"]["spec"].get("initContainers", [])]
    mounted = {mount["name"] for one in every for mount in one["volumeMounts"]}
    assert mounted == {*claims, *volumes}


def test_the_pods_are_nodes_of_the_cluster_that_the_job_makes(image: Stage) -> None:
    text = (CLUSTER / "kubernetes" / "troth.yaml").read_text()
    by_kind = {one["kind"]: one for one in yaml.safe_load_all(text)}
    pod = by_kind["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (create,) = by_kind["Job"]["spec"]["template"]["spec"]["containers"]
    paths = {endpoint.path for endpoint in API_ENDPOINTS if endpoint.public}
    environment = {
        one["name"]: one.get("value", "troth-0").replace("$(TROTH_NODE)", "troth-0")
        for one in container["env"]
    }
    logs = re.findall(r"TROTH_LOG=(\S+)", text)
    monitor = re.search(r"TROTH_NATS_MONITOR=(\S+)", text)
    assert monitor is not None
    secrets = [{"TROTH_LOG": logs[0]}, {"TROTH_LOG": logs[1], "TROTH_NATS_MONITOR": monitor[1]}]

    for secret in secrets:
        found = {**image.environment, **secret, **environment, "TROTH_BASIC_AUTH": "ops=x"}
        settings = load(None, {key: found[key] for key in found if key[:6] == "TROTH_"}, {})
        assert (settings.cluster, settings.node) == (create["args"][2], "troth-0")
        assert parsed([*create["args"], "--log", secret["TROTH_LOG"]]) == ["cluster", "create"]
    assert container["image"] == create["image"] == IMAGE
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in paths
    used = {one["secretRef"]["name"] for one in [*container["envFrom"], *create["envFrom"]]}
    assert {*used, "troth-cluster"} == set(re.findall(r"create secret generic (\S+)", text))
    nodes = next(
        one
        for one in yaml.safe_load_all(text)
        if one["metadata"]["name"] == by_kind["StatefulSet"]["spec"]["serviceName"]
    )
    mesh = settings.mesh_listen
    assert mesh is not None
    assert mesh.host == f"troth-0.{nodes['metadata']['name']}.troth.svc.cluster.local"
    assert [port["port"] for port in nodes["spec"]["ports"]] == [mesh.port]
    (copying,) = pod["initContainers"]
    assert copying["command"][-1] == str(settings.cluster_secret_file)
    user = int(image.last("USER").text.partition(":")[0])
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == user
    assert pod["terminationGracePeriodSeconds"] * 1000 > 2 * SHUTDOWN_TIMEOUT_MS
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["data"] == image.last("VOLUME").text


def test_nats_of_kubernetes_is_set_up_as_everywhere() -> None:
    documents = yaml.safe_load_all((CLUSTER / "kubernetes" / "nats.yaml").read_text())
    by_kind = {one["kind"]: one for one in documents}
    service, pods = by_kind["StatefulSet"]["spec"]["serviceName"], ("nats-0", "nats-1", "nats-2")
    text = by_kind["ConfigMap"]["data"]["nats.conf"]

    def bare(configuration: str) -> list[str]:
        lines = (line.strip() for line in configuration.splitlines())
        return [line for line in lines if line and line[0] != "#"]

    for pod, name in zip(pods, ("nats-1", "nats-2", "nats-3"), strict=True):
        text = text.replace(f"//{pod}.{service}:", f"//<{name}>:")
    assert bare(text.replace("<", "").replace(">", "")) == bare((CLUSTER / "nats.conf").read_text())


def test_nats_servers_ping_each_other_as_in_tests() -> None:
    """What a cut takes to heal is measured so; no server can be asked how it is set up."""
    for file in (CLUSTER / "nats.conf", ROOT / "docs" / "operate" / "nats.md"):
        for setting in ROUTE_PINGS.split(", "):
            assert f"\n{setting}\n" in file.read_text().replace(" " * 2, ""), file


@contextlib.contextmanager
def running_nodes(
    directory: Path, settings: Mapping[str, str], log: Mapping[str, str]
) -> Iterator[dict[str, ServerProcess]]:
    """Run three nodes with settings, but for addresses and passwords; kill them at the end."""
    secret = directory / "cluster.secret"
    (line,) = (
        line for line in comment_commands(CLUSTER / "systemd" / "nats.env") if "openssl" in line
    )
    subprocess.run(
        ["bash", "-euc", replaced(line, {"/etc/troth": str(directory), "chown troth": "ls"})],
        check=True,
    )
    kept = {
        key: text
        for key, text in {**settings, **log}.items()
        if key[:6] == "TROTH_" and key not in {"TROTH_LISTEN", "TROTH_POLL_LISTEN"}
    }
    kept |= {
        "TROTH_BASIC_AUTH": f"ops={PASSWORD}",
        "TROTH_CLUSTER_SECRET_FILE": str(secret),
    }
    nodes = {
        name: ServerProcess(
            directory / name,
            environment={
                **kept,
                "TROTH_NODE": name,
                "TROTH_MESH_LISTEN": f"127.0.0.1:{port}",
            },
        )
        for name, port in zip(NODES, free_ports(len(NODES)), strict=True)
    }
    with contextlib.ExitStack() as closing, ThreadPoolExecutor() as starting:
        for node in nodes.values():
            closing.callback(node.__exit__, None, None, None)
        for started in [starting.submit(node.start) for node in nodes.values()]:
            started.result()
        yield nodes


def _asked(url: str, method: str, path: str, body: object = None) -> int:
    """Ask through the proxy, as the user of the files; 0 if there is no answer."""
    credentials = base64.b64encode(b"ops:" + PASSWORD.encode()).decode()
    with contextlib.suppress(OSError):
        return http_json(method, f"{url}{path}", body, {"Authorization": f"Basic {credentials}"})[0]
    return 0


def _wait_for(url: str, path: str) -> None:
    """Wait until the proxy has an answer for a path."""
    ends_s = time.monotonic() + TAKEOVER_LIMIT_S
    while _asked(url, "GET", path) != 200:
        assert time.monotonic() < ends_s, path
        time.sleep(0.1)


def _create(url: str, name: str) -> None:
    """Create a promise, again if its group has just been without an owner."""
    ends_s = time.monotonic() + TAKEOVER_LIMIT_S
    expected = {201}
    while (
        status := _asked(url, "POST", "/promises", {"id": name, "timeout": 2**53})
    ) not in expected:
        assert status in {0, 502, 503}, status
        assert time.monotonic() < ends_s, name
        expected = {201, 403, 409}  # it may be there since then
        time.sleep(0.1)


def _lives_on(
    directory: Path, nodes: Mapping[str, ServerProcess], lose: Callable[[], None]
) -> None:
    """Create promises through the proxy, lose a node and more, and find them again."""
    with haproxy(directory, nodes) as (api, poll):
        _wait_for(api, "/ready")
        made = [f"p{number}" for number in range(20)]
        for name in made:
            _create(api, name)
        assert _asked(poll, "GET", "/ping") == 200
        lose()
        nodes["one"].kill9()
        for name in made:
            _wait_for(api, f"/promises/{name}")


def _make_cluster(path: Path, url: str) -> None:
    """Make the cluster as a file says, in another place and with fewer groups."""
    (words,) = troth_commands(path)
    assert words[3:5] == ["--log", words[4]]
    words[words.index("--groups") + 1] = "3"
    assert command.run([*words[:3], "--log", url, *words[5:]]) == 0


@pytest.mark.slow
def test_three_nodes_with_postgresql_live_on_without_one(
    tmp_path: Path, postgres_server_of_session: PostgresServer
) -> None:
    postgres_server_of_session.query("CREATE DATABASE deployed")
    url = postgres_server_of_session.url.replace("///postgres", "///deployed")
    path = CLUSTER / "systemd" / "postgres.env"
    _make_cluster(path, url)
    with running_nodes(tmp_path, variables(path), {"TROTH_LOG": url}) as nodes:
        _lives_on(tmp_path, nodes, lambda: None)


@pytest.mark.slow
def test_three_nodes_with_nats_live_on_without_one_and_a_nats_server(tmp_path: Path) -> None:
    path, names = CLUSTER / "systemd" / "nats.env", ("nats-1", "nats-2", "nats-3")
    with nats_servers(tmp_path, (CLUSTER / "nats.conf").read_text(), names) as servers:
        addresses = {one.name: one.address for one in servers}
        monitors = {f"http://{one.name}:8222": one.monitor_url for one in servers}
        found = variables(path)
        log = {
            "TROTH_LOG": replaced(found["TROTH_LOG"], {**addresses, "change-this": PASSWORD}),
            "TROTH_NATS_MONITOR": replaced(found["TROTH_NATS_MONITOR"], monitors),
        }
        _make_cluster(path, log["TROTH_LOG"])
        with running_nodes(tmp_path, found, log) as nodes:
            _lives_on(tmp_path, nodes, lambda: servers[0].stop(signal.SIGKILL))


@pytest.mark.parametrize("folder", ["cluster", "proxies"])
def test_haproxy_holds_no_message_back(folder: str) -> None:
    """Without it, a message to a worker waits for more for 200 ms."""
    assert "option http-no-delay\n" in (ROOT / "deploy" / folder / "haproxy.cfg").read_text()
