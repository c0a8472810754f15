"""The units of `deploy/systemd/`: systemd reads them, and what they take away is not missed."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess
from tests.helpers.tools import root_needed, tool
from tests.node.node_process import NodeProcess
from tests.node.test_with_server import ECHO, functions_of
from troth.cli.command import troth
from troth.core.limits import CONNECTION_LIMIT_COUNT, SHUTDOWN_TIMEOUT_MS
from troth.http.settings.settings import Settings
from troth.http.settings.sources import load

UNITS: Final = ROOT / "deploy" / "systemd"
SERVICES: Final = ("troth.service", "troth-node.service")
EXPOSURE_LIMITS: Final = {"troth.service": 3.0, "troth-node.service": 3.5}
"""What `systemd-analyze security` may say. A node gives each task a user and a mount namespace of
its own, and may keep what that takes; without these powers it would say 2, and tasks would share
/tmp."""

WRITE_OR_EXECUTE: Final = """
import ctypes, os, sys
# PR_SET_MDWE, which MemoryDenyWriteExecute= comes to: memory is writable or executable, never both.
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0) != 0 and ctypes.get_errno() != 22:
    raise SystemExit("prctl fails")
os.umask(0o077)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def section(name: str, title: str) -> dict[str, list[str]]:
    """Return the lines of a section, by name; a name may stand there more than once."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif current == title and "=" in line and not line.startswith("#"):
            key, _, text = line.partition("=")
            found.setdefault(key, []).append(text)
    return found


def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze", "systemd")
    names = []
    for path in sorted(UNITS.glob("*.service")) + sorted(UNITS.glob("*.socket")):
        # The program is not installed there on this machine, and neither is the manual.
        text = path.read_text().replace("/opt/troth/bin/troth", "/bin/true")
        (tmp_path / path.name).write_text(text)
        names.append(path.name)
    done = subprocess.run(
        [analyze, "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=False,
    )

    said = [line for line in done.stderr.splitlines() if "troth" in line]
    assert (done.returncode, said) == (0, [])
    assert len(names) == 4


@pytest.mark.parametrize("name", SERVICES)
def test_little_is_exposed(name: str) -> None:
    analyze = tool("systemd-analyze", "systemd")
    done = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", str(UNITS / name)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)

    assert found is not None, done.stdout
    assert float(found[1]) < EXPOSURE_LIMITS[name], done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_the_commands_and_settings_exist(name: str) -> None:
    service = section(name, "Service")
    program, *arguments = service["ExecStart"][0].split()
    environment = dict(line.split("=", 1) for line in service.get("Environment", []))
    command = troth.get_command(troth.make_context("troth", ["version"]), arguments[0])

    assert program == "/opt/troth/bin/troth"
    assert command is not None
    command.make_context(arguments[0], arguments[1:], resilient_parsing=True)
    if arguments[0] == "serve":
        assert load(None, environment, {}).data == Path("/var/lib/troth")


def test_times_and_descriptors_suffice() -> None:
    service = section("troth.service", "Service")

    assert service["Type"] == ["notify"]
    assert int(service["TimeoutStopSec"][0]) * 1000 > SHUTDOWN_TIMEOUT_MS
    assert int(service["LimitNOFILE"][0]) * 3 // 4 > CONNECTION_LIMIT_COUNT
    assert service["StateDirectory"] == ["troth"]


def test_the_sockets_are_where_the_server_listens_otherwise() -> None:
    settings = Settings()
    api, poll = (section(name, "Socket") for name in ("troth.socket", "troth-poll.socket"))

    assert api["ListenStream"] == [str(settings.listen)]
    assert poll["ListenStream"] == [str(settings.poll_listen)]
    assert (api["FileDescriptorName"], poll["FileDescriptorName"]) == (["api"], ["poll"])


def test_the_user_is_made(tmp_path: Path) -> None:
    sysusers = tool("systemd-sysusers", "systemd")
    root_needed("make users in another root")
    (tmp_path / "etc").mkdir()
    rules = tmp_path / "usr" / "lib" / "sysusers.d"
    rules.mkdir(parents=True)
    shutil.copy(UNITS / "troth.conf", rules)
    subprocess.run([sysusers, f"--root={tmp_path}"], check=True, timeout=60)

    assert "\ntroth:x:" in "\n" + (tmp_path / "etc" / "passwd").read_text()
    assert section("troth.service", "Service")["User"] == ["troth"]


@pytest.mark.slow
def test_a_server_needs_no_rights_and_no_memory_that_is_written_and_executed(
    tmp_path: Path,
) -> None:
    root_needed("give up its rights")
    setpriv = tool("setpriv", "util-linux")
    without = (
        *(setpriv, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
        *(sys.executable, "-c", WRITE_OR_EXECUTE, "-m", "troth", "serve"),
    )
    with ServerProcess(tmp_path / "server", command=without) as server:
        made = server.request("POST", "/promises", {"id": "p", "timeout": 4102444800000})
        server.restart()
        read = server.request("GET", "/promises/p")
        modes = {path.name: path.stat().st_mode & 0o077 for path in server.data.iterdir()}

        assert (made[0], read[0]) == (201, 200)
        assert set(modes.values()) == {0}, modes
        assert server.terminate() == 0


@pytest.mark.slow
def test_a_node_needs_no_more_than_the_unit_leaves_it(
    server: ServerProcess, tmp_path: Path
) -> None:
    root_needed("give up some of its rights")
    service = section("troth-node.service", "Service")
    kept = [
        name.removeprefix("CAP_").lower() for name in service["CapabilityBoundingSet"][0].split()
    ]
    before = (
        *(tool("setpriv", "util-linux"), "--no-new-privs", "--inh-caps=-all"),
        "--bounding-set=-all," + ",".join(f"+{name}" for name in kept),
    )
    functions = functions_of(server, tmp_path)
    function = functions.function(ECHO)
    with NodeProcess(
        tmp_path / "node", server, token=functions.client.secret, before=before
    ) as node:
        status, body = functions.result(functions.create(function, b"hello"))
        log = node.log()

    assert (status, body) == (202, b"hello"), log
    assert "not allowed to mount" not in log, "each task has its own /tmp"


def test_what_is_said_of_logs_holds() -> None:
    for name in SERVICES:
        assert "logrotate has nothing to do here" in (UNITS / name).read_text().replace("\n# ", " ")
    # Read by the strictest parser at hand, too, but for names that stand there twice.
    for path in UNITS.glob("*.socket"):
        configparser.ConfigParser(strict=True, interpolation=None).read_string(path.read_text())
