"""The Containerfile, compose.yaml and the Kubernetes manifests: read, compared, and partly run.

No container engine is at hand. `make deploy-check` carries out the Containerfile's steps in a clean
Debian root; here its texts are held against the repository, and the server is run as the last stage
would run it: as process 1, as its user, without rights, on a root that is read-only.
"""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
import yaml

from tests.deploy.containerfile import Stage, read, stages
from tests.deploy.kubernetes.__main__ import SCHEMAS
from tests.helpers.repository import CODE_FOLDERS, IMPORT_ROOT, ROOT
from tests.helpers.server import http_json
from tests.helpers.tools import root_needed, tool
from troth import __version__
from troth.cli.command import COMMANDS, troth
from troth.core.catalog import Scope
from troth.core.limits import SHUTDOWN_TIMEOUT_MS
from troth.http.documents.table import API_ENDPOINTS
from troth.http.settings.sources import load

DEPLOY: Final = ROOT / "deploy"
IMAGE: Final = f"troth:{__version__}"
TIMEOUT_S: Final = 120.0


@pytest.fixture(scope="module")
def image() -> Stage:
    """The last stage of the Containerfile: what runs."""
    return read(DEPLOY / "Containerfile")[-1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """What compose.yaml says."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """The Kubernetes objects by kind."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "troth.yaml").read_text())
    return {one["kind"]: one for one in documents}


def parsed(words: list[str]) -> str:
    """Return the name of the command of `troth` that words are; fail if it does not take them."""
    name, *arguments = words
    command = troth.get_command(troth.make_context("troth", ["version"]), name)
    assert command is not None, f"there is no troth {name}"
    command.make_context(name, arguments, resilient_parsing=True)
    return name


def test_the_build_copies_all_that_it_needs_and_all_that_it_copies_is_sent() -> None:
    build = read(DEPLOY / "Containerfile")[0]
    copied = [step.words for step in build.all("COPY")]
    sources = {source for *found, _ in copied for source in found}
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()

    assert {*CODE_FOLDERS, "src", "pyproject.toml", "constraints.txt"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, f"{source} is not sent to the engine"
    assert not [line for line in ignored if line.startswith("!") and line[1:] not in sources]
    assert any(fnmatch.fnmatch("core/__pycache__", line) for line in ignored[-1:])


def test_the_build_installs_with_the_pins() -> None:
    build = read(DEPLOY / "Containerfile")[0]
    pinned = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")

    assert [build.environment[name] for name in pinned] == ["constraints.txt"] * 2
    assert any(
        step.words[1:2] == ["install"] and step.words[-1] == ".[postgres,nats]"
        for step in build.all("RUN")
    )
    # The version whose pins these are.
    assert "with Python 3.11" in (ROOT / "constraints.txt").read_text()
    assert all(":3.11-" in stage.base for stage in read(DEPLOY / "Containerfile"))


def test_the_image_runs_commands_and_settings_that_exist(image: Stage) -> None:
    health = image.last("HEALTHCHECK").text.partition("CMD ")[2]
    settings = load(None, {**image.environment, "TROTH_ALLOW_ANONYMOUS": "true"}, {})

    assert image.last("ENTRYPOINT").words == ["troth"]
    assert parsed(image.last("CMD").words) == "serve"
    assert parsed(json.loads(health)[1:]) == "health"
    assert settings.data == Path(image.last("VOLUME").text)
    assert image.last("EXPOSE").words == [
        str(settings.listen.port),
        str(settings.poll_listen and settings.poll_listen.port),
    ]
    assert int(image.last("USER").text.partition(":")[0]) > 0


@pytest.mark.parametrize("line", ["ADD x y", "ARG x", "SHELL x"])
def test_an_instruction_that_is_not_understood_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="is not understood"):
        stages(f"FROM x\n{line}")


def test_compose_names_what_there_is(compose: dict[str, Any], image: Stage) -> None:
    services = compose["services"]

    assert {"server", "node", "prometheus", "grafana"} == set(services)
    for service in services.values():
        assert set(service.get("depends_on", [])) <= set(services)
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_dir(), source
            else:
                assert source in compose["volumes"]
    assert services["server"]["image"] == services["node"]["image"] == IMAGE
    build = services["server"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Containerfile"
    environment = {**image.environment, **services["server"]["environment"]}
    load(None, {**environment, "TROTH_ALLOW_ANONYMOUS": "true"}, {})
    published = {port.split(":")[2] for port in services["server"]["ports"]}
    assert published == set(image.last("EXPOSE").words)
    assert all(
        port.startswith("127.0.0.1:") for one in services.values() for port in one.get("ports", [])
    )


def test_the_node_of_compose_gets_its_token_from_a_file(compose: dict[str, Any]) -> None:
    shell, _, line = compose["services"]["node"]["entrypoint"]
    words = shlex.split(line.replace("$$", "$").partition("exec ")[2])

    assert shell == "sh"
    assert parsed(words[1:]) == "node"
    assert "/run/secrets/node-token" in line
    unit = (DEPLOY / "systemd" / "troth-node.service").read_text()
    bound = re.search(r"^CapabilityBoundingSet=(.+)$", unit, re.MULTILINE)
    assert bound is not None
    given = {f"CAP_{name}" for name in compose["services"]["node"]["cap_add"]}
    assert given == set(bound[1].split())


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes/troth.yaml"])
def test_the_commands_in_comments_exist(name: str) -> None:
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    found = re.findall(r"\btroth ((?:account|token) [^>&\"#\n]+)", text)

    assert len(found) >= 2, "the comment no longer says how to begin"
    for line in found:
        words = shlex.split(line.strip())
        assert parsed(words) in COMMANDS
        scopes = [words[at + 1] for at, word in enumerate(words) if word == "--scope"]
        assert set(scopes) <= {scope.value for scope in Scope}


def test_prometheus_and_grafana_of_compose_fit_together(compose: dict[str, Any]) -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    source = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    )
    job = scraped["scrape_configs"][0]

    assert job["static_configs"][0]["targets"] == ["server:8001"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics-token"
    assert "metrics-token" in compose["services"]["prometheus"]["secrets"]
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def manifest_problems(manifest: dict[str, Any]) -> list[str]:
    """Return what Kubernetes would refuse about an object, as far as its schemas say."""
    document = json.loads(SCHEMAS.read_text())
    kind = document["kinds"].get(f"{manifest['apiVersion']} {manifest['kind']}")
    if kind is None:
        return [f"there is no schema of {manifest['kind']}"]
    schema = {"$defs": document["$defs"], "$ref": f"#/$defs/{kind}"}
    validator = jsonschema_rs.validator_for(schema)
    return [
        f"{'/'.join(map(str, error.instance_path))}: {error.message}"
        for error in validator.iter_errors(manifest)
    ]


def test_kubernetes_would_take_the_manifests(manifests: dict[str, Any]) -> None:
    problems = {name: manifest_problems(one) for name, one in manifests.items()}

    assert {name: found for name, found in problems.items() if found} == {}
    assert {"StatefulSet", "PodDisruptionBudget", "Service"} <= set(manifests)


def test_a_manifest_that_kubernetes_would_refuse_is_found(manifests: dict[str, Any]) -> None:
    misspelled = json.loads(json.dumps(manifests["StatefulSet"]))
    container = misspelled["spec"]["template"]["spec"]["containers"][0]
    container["livenessProb"] = container.pop("livenessProbe")
    container["ports"][0]["containerPort"] = "8001"

    assert len(manifest_problems(misspelled)) == 2


def test_the_manifests_fit_together_and_to_the_server(
    manifests: dict[str, Any], image: Stage
) -> None:
    spec = manifests["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    paths = {endpoint.path for endpoint in API_ENDPOINTS if endpoint.public}
    environment = {one["name"]: one["value"] for one in container["env"]}

    assert spec["selector"]["matchLabels"] == labels
    for kind in ("Service", "PodDisruptionBudget"):
        selector = manifests[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} <= set(ports)
    assert [*map(str, ports.values())] == image.last("EXPOSE").words
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in paths
        assert container[probe]["httpGet"]["port"] in ports
    assert pod["terminationGracePeriodSeconds"] * 1000 > 2 * SHUTDOWN_TIMEOUT_MS
    assert container["image"] == IMAGE
    user = int(image.last("USER").text.partition(":")[0])
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == user
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["data"] == image.last("VOLUME").text
    load(None, {**image.environment, **environment, "TROTH_ALLOW_ANONYMOUS": "true"}, {})
    # What Kubernetes itself sets for a service of this name is no setting.
    load(None, {"TROTH_PORT": "tcp://10.0.0.1:8001", "TROTH_SERVICE_HOST": "10.0.0.1"}, {})


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(DEPLOY.rglob("*")) if path.is_file()],
    ids=lambda path: path.relative_to(DEPLOY).as_posix(),
)
def test_each_file_says_first_how_far_it_is_tried(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    if path.suffix == ".json" or "tests" in path.relative_to(DEPLOY).parts:
        return  # they have no comments; the README of their folder says it
    if path.name == ".gitignore":
        return

    assert re.search(r"[Tt]ried|[Nn]ot built|[Tt]ested", first), first


AS_IN_A_CONTAINER: Final = """
set -e
mount --make-rprivate /
mount --bind "$DATA" "$DATA"
mount -o remount,bind,ro /
mount -t proc proc /proc
# It may read this installation, wherever it lies, and has no other rights.
exec setpriv --reuid="$ID" --regid="$ID" --clear-groups --no-new-privs \
  --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search \
  --bounding-set=-all,+dac_read_search \
  "$@"
"""


@pytest.mark.slow
def test_a_server_is_process_1_of_a_root_that_is_read_only(tmp_path: Path, image: Stage) -> None:
    root_needed("make a container's surroundings")
    unshare, user = tool("unshare", "util-linux"), image.last("USER").text.partition(":")[0]
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    os.chown(data, int(user), int(user))
    inherited = {name: text for name, text in os.environ.items() if name[:6] != "TROTH_"}
    environment = {
        **inherited,
        **{name: text for name, text in image.environment.items() if name[:6] == "TROTH_"},
        "PYTHONPATH": str(IMPORT_ROOT),
        "DATA": str(data),
        "ID": user,
        "TROTH_DATA": str(data),
        "TROTH_LISTEN": "127.0.0.1:0",
        "TROTH_POLL_LISTEN": "none",
    }
    command = [
        *(unshare, "--pid", "--fork", "--mount", "--kill-child", "--"),
        *("bash", "-c", AS_IN_A_CONTAINER, "bash"),
        *(sys.executable, "-m", "troth", *image.last("CMD").words),
    ]
    log_path = tmp_path / "log"
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            command, cwd=data, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process,
    ):
        try:
            url = _url_when_ready(log_path, process)
            made = http_json("POST", f"{url}/promises", {"id": "p", "timeout": 4102444800000})
            (inner,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            status = Path(f"/proc/{inner}/status").read_text()
            os.kill(int(inner), 15)
            ended = process.wait(TIMEOUT_S)
        finally:
            process.kill()

    assert made[0] == 201
    assert re.search(r"^NSpid:\s+\d+(\s+\d+)*\s+1$", status, re.MULTILINE), "it is process 1"
    assert re.search(rf"^Uid:\s+{user}\s", status, re.MULTILINE)
    assert ended == 0, log_path.read_text()
    assert "stopping" in log_path.read_text()


def _url_when_ready(log_path: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log_path.read_text().splitlines():
            said = json.loads(line) if line.startswith("{") else {}
            if said.get("event") == "ready":
                return str(said["api"])
        time.sleep(0.05)
    raise AssertionError(log_path.read_text())
