"""The data directory and the disk under it: whose it is, how much room, how fast, how honest.

A disk that says "written" before it is so cannot be found out by a program, only by pulling the
plug. What can be seen is looked at: a file system in memory, a library that swallows fsync, mount
options that leave out barriers, and answers faster than any disk's.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from troth.bench.ceilings import measure_sync
from troth.cli.operator_session import is_served
from troth.http.settings.settings import Settings

from .findings import Finding, failure, note, ok, warning

MEASURED_S: Final = 1.0
RECORD_BYTES: Final = 4096
SLOW_MS: Final = 10.0
"""Each answer waits for the disk; at this, a program that asks one thing after another makes a
hundred a second."""

TOO_FAST_MS: Final = 0.015
"""The fastest disks with capacitors need some 20 µs to say that something is written."""

FREE_LEAST_BYTES: Final = 1 << 30
FREE_LEAST_SHARE: Final = 0.05

_MOUNTS: Final = Path("/proc/self/mounts")
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_OVERLAY: Final = frozenset({"overlay", "aufs", "squashfs"})
_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"}
)
_WITHOUT_BARRIERS: Final = frozenset({"nobarrier", "barrier=0", "data=writeback"})
_SWALLOWS: Final = "eatmydata"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    place: str
    kind: str
    options: frozenset[str]


def mount_of(path: Path, mounts: str) -> Mount | None:
    """Return the file system that holds a path, given `/proc/self/mounts`; None if unknown."""
    found: Mount | None = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        place = fields[1].encode().decode("unicode_escape")
        is_longer = found is None or len(place) >= len(found.place)
        if is_longer and path.is_relative_to(place):
            found = Mount(place, fields[2], frozenset(fields[3].split(",")))
    return found


def nearest(path: Path) -> Path:
    """Return the path, or the closest directory above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def examine_directory(settings: Settings) -> Iterator[Finding]:
    """Say whether the server could use its directory, and how much room there is."""
    data = settings.data
    if settings.in_memory:
        yield note("directory", "none: everything is lost when the server stops (in_memory)")
        return
    if data.exists() and not data.is_dir():
        yield failure("directory", f"{data} is not a directory", "name another with --data")
        return
    place = nearest(data)
    user = os.geteuid()
    if not os.access(place, os.W_OK | os.X_OK):
        yield failure(
            "directory",
            f"user {user} may not write in {place}",
            f"run this as the server's user, or give it the directory: chown -R USER {data}",
        )
        return
    if not data.exists():
        yield note("directory", f"{data} does not exist; the server would create it")
    else:
        yield from _examine_existing(data, user)
    usage = shutil.disk_usage(place)
    free = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free"
    if usage.free < max(FREE_LEAST_BYTES, FREE_LEAST_SHARE * usage.total):
        yield warning(
            "space", free, "a full disk stops the server: make room, or retain less (--retain)"
        )
    else:
        yield ok("space", free)


def _examine_existing(data: Path, user: int) -> Iterator[Finding]:
    status = data.stat()
    others = [path for path in (data, *data.rglob("*")) if path.lstat().st_uid != status.st_uid]
    if others:
        yield failure(
            "directory",
            f"{len(others)} files in {data} do not belong to its owner, such as {others[0]}",
            f"a command was run as another user: chown -R {status.st_uid} {data}",
        )
    elif user not in {0, status.st_uid}:
        yield failure(
            "directory",
            f"{data} belongs to user {status.st_uid}, not to {user}",
            "run this as the server's user",
        )
    elif stat.S_IMODE(status.st_mode) & 0o077:
        yield warning(
            "directory",
            f"others may look into {data} (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 700 {data}",
        )
    else:
        in_use = "; a server has it open" if is_served(data) else ""
        yield ok("directory", f"{data}{in_use}")


def examine_disk(
    settings: Settings, *, measured_s: float = MEASURED_S, mounts_file: Path = _MOUNTS
) -> Iterator[Finding]:
    """Say what holds the directory, and measure how long it takes to write for good."""
    place = nearest(settings.data)
    if settings.in_memory or not os.access(place, os.W_OK | os.X_OK):
        return  # nothing to be measured; `examine_directory` has said so
    mounts = mounts_file.read_text() if mounts_file.exists() else ""
    mount = mount_of(place.resolve(), mounts)
    if mount is not None:
        yield from _examine_mount(mount)
    if _SWALLOWS in os.environ.get("LD_PRELOAD", ""):
        yield failure("fsync", "LD_PRELOAD names eatmydata, which swallows it", "unset LD_PRELOAD")
    durations = measure_sync(place, RECORD_BYTES, measured_s)
    median_ms, tail_ms = (durations.percentile(share) / 1e6 for share in (50, 99))
    found = (
        f"writing {RECORD_BYTES // 1024} KiB for good takes {median_ms:.2f} ms, "
        f"{tail_ms:.2f} ms in the worst of a hundred cases"
    )
    if median_ms < TOO_FAST_MS:
        yield warning(
            "disk",
            f"{found}: faster than disks are",
            "something between here and the disk may say `written` too early; if the machine "
            "loses power, acknowledged promises may be lost. Pull the plug to be sure",
        )
    elif median_ms > SLOW_MS:
        yield warning(
            "disk",
            found,
            "each answer waits for that: use an SSD, best one with power-loss protection, and no "
            "network file system",
        )
    else:
        yield ok("disk", found)


def _examine_mount(mount: Mount) -> Iterator[Finding]:
    shown = f"{mount.kind} at {mount.place}"
    without = sorted(_WITHOUT_BARRIERS & mount.options)
    if mount.kind in _IN_MEMORY:
        yield warning("file system", f"{shown} is in memory", "it is empty after a reboot")
    elif mount.kind in _OVERLAY:
        yield warning(
            "file system",
            f"{shown} is a container's own layer",
            "it goes with the container: mount a volume for the data directory",
        )
    elif mount.kind in _NETWORK:
        yield warning(
            "file system",
            f"{shown} is on a network",
            "locks and fsync may not mean there what they say: use a local disk or a block device",
        )
    elif without:
        yield failure(
            "file system",
            f"{shown} is mounted with {', '.join(without)}",
            "after a loss of power the log may have holes: mount it without that",
        )
    else:
        yield ok("file system", shown)
