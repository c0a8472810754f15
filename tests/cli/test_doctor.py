"""`troth doctor`: each finding is seen where it is there, and not where it is not."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.http.fake_api import FakeApi
from troth.bench.histogram import Histogram
from troth.cli import command as cli
from troth.cli.doctor import disk, machine, network
from troth.cli.doctor.findings import Finding, Soundness
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.persistence.process_memory import MemoryLimits

MOUNTS: Final = """\
/dev/sda1 / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw,nosuid 0 0
/dev/sdb1 /var/lib/troth\\040data xfs rw,nobarrier 0 0
nas:/x /srv/nas nfs4 rw,vers=4.2 0 0
overlay /container overlay rw 0 0
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in list(os.environ):
        if variable.startswith("TROTH_") or variable.upper().endswith("_PROXY"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def verdicts(found: Iterator[Finding]) -> dict[str, Soundness]:
    """Return the verdict on each subject."""
    return {finding.subject: finding.verdict for finding in found}


def syncs_of(*durations_ms: float) -> Callable[..., Histogram]:
    """Return a measurement of a disk that takes this long."""
    histogram = Histogram()
    for duration_ms in durations_ms:
        histogram.record(int(duration_ms * 1e6))

    def measure(*_: object) -> Histogram:
        return histogram

    return measure


def test_the_command_says_a_line_each_and_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(disk, "measure_sync", syncs_of(1.0))
    ports = {"TROTH_LISTEN": "127.0.0.1:0", "TROTH_POLL_LISTEN": "none"}
    for name, text in ports.items():
        monkeypatch.setenv(name, text)

    assert cli.run(["doctor", "--data", str(tmp_path / "new")]) == 0
    shown = capsys.readouterr().out
    assert cli.run(["doctor", "--data", str(tmp_path / "new"), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]

    assert "ok       disk: writing 4 KiB for good takes 1.0" in shown
    assert {"versions", "directory", "disk", "open files", "clock", "access"} <= {
        one["subject"] for one in findings
    }
    assert len(findings) == len([line for line in shown.splitlines() if line[0] != " "])
    assert not (tmp_path / "new").exists(), "it changes nothing"


def test_settings_that_cannot_be_are_a_failure_and_the_rest_is_looked_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(disk, "measure_sync", syncs_of(1.0))
    monkeypatch.setenv("TROTH_LISTEN", "0.0.0.0:0")
    monkeypatch.setenv("TROTH_POLL_LISTEN", "none")

    assert cli.run(["doctor", "--data", str(tmp_path / "new")]) == 1
    shown = capsys.readouterr().out

    assert shown.startswith("failure  settings: ")
    assert "disk: " in shown
    monkeypatch.setenv("TROTH_SHARDS", "many")
    assert cli.run(["doctor"]) == 1
    assert capsys.readouterr().out.count("failure") == 1


@pytest.mark.parametrize(
    ("path", "kind", "options"),
    [
        ("/var/lib/x", "ext4", {"rw", "relatime"}),
        ("/run/troth", "tmpfs", {"rw", "nosuid"}),
        ("/var/lib/troth data/log", "xfs", {"rw", "nobarrier"}),
        ("/running", "ext4", {"rw", "relatime"}),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, options: set[str]) -> None:
    mount = disk.mount_of(Path(path), MOUNTS)

    assert mount is not None
    assert (mount.kind, {*mount.options}) == (kind, options)


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("d / ext4 rw", Soundness.OK),
        ("d / tmpfs rw", Soundness.WARNING),
        ("d / overlay rw", Soundness.WARNING),
        ("d / nfs4 rw", Soundness.WARNING),
        ("d / ext4 rw,barrier=0", Soundness.FAILURE),
    ],
)
def test_file_systems_are_judged(
    line: str, verdict: Soundness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "measure_sync", syncs_of(1.0))
    (tmp_path / "mounts").write_text(line)

    found = disk.examine_disk(Settings(data=tmp_path), mounts_file=tmp_path / "mounts")

    assert verdicts(found)["file system"] is verdict


@pytest.mark.parametrize(
    ("duration_ms", "verdict"),
    [(1.0, Soundness.OK), (25.0, Soundness.WARNING), (0.005, Soundness.WARNING)],
)
def test_disks_that_are_slow_or_too_fast_are_noticed(
    duration_ms: float, verdict: Soundness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "measure_sync", syncs_of(duration_ms))

    assert verdicts(disk.examine_disk(Settings(data=tmp_path)))["disk"] is verdict


def test_a_library_that_swallows_fsync_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "measure_sync", syncs_of(1.0))
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libeatmydata.so")

    assert verdicts(disk.examine_disk(Settings(data=tmp_path)))["fsync"] is Soundness.FAILURE


def test_a_real_disk_is_measured(tmp_path: Path) -> None:
    found = list(disk.examine_disk(Settings(data=tmp_path), measured_s=0.05))

    assert "disk" in {finding.subject for finding in found}
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_directories_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict(data: Path) -> Soundness:
        return verdicts(disk.examine_directory(Settings(data=data)))["directory"]

    good = tmp_path / "good"
    good.mkdir(mode=0o700)
    (good / "file").touch()
    open_to_others = tmp_path / "open"
    open_to_others.mkdir()
    open_to_others.chmod(0o755)

    assert verdict(good) is Soundness.OK
    assert verdict(tmp_path / "none") is Soundness.NOTE
    assert verdict(good / "file") is Soundness.FAILURE
    assert verdict(open_to_others) is Soundness.WARNING
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert verdict(good) is Soundness.FAILURE


def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    full = type(usage)(usage.total, usage.total, 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)

    assert verdicts(disk.examine_directory(Settings(data=tmp_path)))["space"] is Soundness.WARNING


def test_files_of_others_are_noticed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "file").touch()
    if os.geteuid() == 0:
        os.chown(tmp_path / "file", 12345, 12345)
        expected = Soundness.FAILURE
    else:
        expected = Soundness.OK

    assert verdicts(disk.examine_directory(Settings(data=tmp_path)))["directory"] is expected


def test_few_descriptors_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict(limit_count: int, processes_count: int = 1) -> Soundness:
        monkeypatch.setattr(machine, "raise_limit", lambda: limit_count)
        settings = Settings(processes=processes_count)
        return verdicts(machine.examine_descriptors(settings))["open files"]

    assert verdict(65536) is Soundness.OK
    assert verdict(1024) is Soundness.WARNING
    assert verdict(1024, 100) is Soundness.OK, "each process has its own, and a part of them all"
    assert verdict(20) is Soundness.FAILURE


def test_little_memory_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict(limits: MemoryLimits) -> Soundness:
        monkeypatch.setattr(machine, "memory_limits", lambda: limits)
        return verdicts(machine.examine_memory(Settings()))["memory"]

    assert verdict(MemoryLimits()) is Soundness.OK
    assert verdict(MemoryLimits(resident_bytes=16 << 30)) is Soundness.OK
    assert verdict(MemoryLimits(resident_bytes=300 << 20)) is Soundness.WARNING


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(0x2001, Soundness.OK), (0x0041, Soundness.WARNING), (None, Soundness.NOTE)],
)
def test_a_clock_that_nothing_keeps_right_is_noticed(
    status: int | None, verdict: Soundness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_clock_status", lambda: status)

    assert verdicts(machine.examine_clock(Settings()))["clock"] is verdict


def test_a_clock_of_long_ago_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)

    assert verdicts(machine.examine_clock(Settings()))["clock"] is Soundness.FAILURE


def test_the_kernel_says_who_sets_the_clock() -> None:
    status = machine._clock_status()

    assert status is None or 0 <= status <= 0xFFFF


@pytest.mark.parametrize(
    ("requirement", "is_fit"),
    [
        ("click>=8.1", True),
        ("click>=99", False),
        ("hypercorn==0.18.0", True),
        ("hypercorn==0.17.0", False),
        ("surely-not-installed>=1", False),
        ('pytest>=99; extra == "dev"', True),
    ],
)
def test_libraries_are_compared(requirement: str, is_fit: bool) -> None:
    assert (machine._unfit(requirement) is None) is is_fit


def test_ports_are_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, FakeApi() as api:
        api.say(200, {"status": "ok"})
        troths, others = (
            int(url.rpartition(":")[2]) for url in (api.url, f":{taken.getsockname()[1]}")
        )
        settings = Settings(
            listen=ListenAddress("127.0.0.1", troths),
            poll_listen=ListenAddress("127.0.0.1", others),
        )
        taken.close()
        free = verdicts(network.examine_ports(settings))
    with socket.create_server(("127.0.0.1", others)):
        busy = list(
            network.examine_ports(
                Settings(listen=ListenAddress("203.0.113.1", 80), poll_listen=None)
            )
        )

    assert free == {f"port {troths}": Soundness.NOTE, f"port {others}": Soundness.OK}
    assert [finding.verdict for finding in busy] == [Soundness.FAILURE], (
        "no address of this machine"
    )


def test_who_may_connect(tmp_path: Path) -> None:
    def verdict(**changed: object) -> Soundness:
        return verdicts(network.examine_access(Settings(data=tmp_path, **changed)))["access"]  # type: ignore[arg-type]

    everywhere = ListenAddress("0.0.0.0", 8001)
    assert verdict() is Soundness.OK
    assert verdict(listen=everywhere) is Soundness.FAILURE
    assert verdict(listen=everywhere, allow_anonymous=True) is Soundness.WARNING
    (tmp_path / "admin.key").touch()
    assert verdict(listen=everywhere) is Soundness.NOTE


def test_what_stands_before_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*answers: tuple[int, object]) -> Soundness:
        with FakeApi() as api:
            for status, body in answers:
                api.say(status, body, content_type="application/json" if body else "text/html")
            return verdicts(network.examine_proxies(Settings(url=api.url)))["url"]

    missing = {"error": {"code": 40400, "message": "none", "details": []}}
    assert found((200, {"status": "ok"}), (404, missing)) is Soundness.OK
    assert found((200, {"status": "ok"}), (400, None)) is Soundness.FAILURE
    assert found((502, None)) is Soundness.FAILURE
    assert verdicts(network.examine_proxies(Settings()))["url"] is Soundness.NOTE
    gone = network.examine_proxies(Settings(url="http://127.0.0.1:1"))
    assert verdicts(gone)["url"] is Soundness.WARNING
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert verdicts(network.examine_proxies(Settings()))["proxies"] is Soundness.NOTE
