"""The machine around a server: versions, descriptors, memory, the clock."""

import ctypes
import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from typing import Final

from troth import __version__
from troth.cli.supervising.start import wanted_count
from troth.http.settings.settings import Settings
from troth.http.sockets.descriptors import TooFewDescriptors, part_of, raise_limit, shares_of
from troth.http.sockets.memory_plan import plan_memory
from troth.persistence.process_memory import memory_limits

from .findings import Finding, failure, note, ok, warning

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)\s*(==|>=)\s*([0-9.]+)")
_UNSYNCHRONIZED: Final = 0x0040
"""STA_UNSYNC of adjtimex(2)."""

_EARLIEST_S: Final = 1_735_689_600
"""2025-01-01: a clock before that is wrong."""

_TIMEX_BYTES: Final = 256
_STATUS_OFFSET: Final = 40 if sys.maxsize > 2**32 else 20
"""Where `status` lies in struct timex."""


def examine_versions(_: Settings) -> Iterator[Finding]:
    """Say which versions are here, and whether the libraries are those that Troth asks for."""
    yield ok(
        "versions",
        f"Troth {__version__}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.release()}",
    )
    try:
        required = importlib.metadata.requires("troth") or []
    except importlib.metadata.PackageNotFoundError:
        yield note("libraries", "Troth is not installed, but run from its files")
        return
    wrong = [text for line in required if (text := _unfit(line)) is not None]
    if wrong:
        yield failure(
            "libraries",
            f"not what Troth asks for: {', '.join(wrong)}",
            "install it in an environment of its own: pipx install troth",
        )
    else:
        yield ok("libraries", "all are what Troth asks for")


def _unfit(line: str) -> str | None:
    """Return what is wrong with the library that a requirement names; None if nothing is."""
    found = _REQUIREMENT.match(line)
    if found is None or "extra ==" in line:
        return None
    name, relation, wanted = found.groups()
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is missing"
    is_fit = version == wanted if relation == "==" else _numbers(version) >= _numbers(wanted)
    return None if is_fit else f"{name} is {version}, not {relation}{wanted}"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]+", version)]


def examine_descriptors(settings: Settings) -> Iterator[Finding]:
    """Say for how many connections the limit of open files suffices."""
    try:
        shares = shares_of(raise_limit())
    except TooFewDescriptors as error:
        yield failure("open files", str(error), "ulimit -n 65536")
        return
    limit_count = settings.connection_limit_count
    found = f"the limit is {shares.limit_count}: {shares.incoming_count} connections"
    if shares.incoming_count < part_of(limit_count, wanted_count(settings)):
        yield warning(
            "open files",
            f"{found}, and connection_limit_count is {limit_count}",
            "raise it: ulimit -Hn, LimitNOFILE= of the service, ulimits of the container",
        )
    else:
        yield ok("open files", found)


def examine_memory(settings: Settings) -> Iterator[Finding]:
    """Say how much memory a server here may have, and whether that suffices for its settings."""
    limits = memory_limits()
    plan = plan_memory(settings, limits)
    if plan.headroom_bytes is None:
        yield ok("memory", "nothing limits it")
        return
    found = f"{plan.headroom_bytes / 1e6:.0f} MB may be used"
    if plan.is_lowered:
        yield warning(
            "memory",
            f"{found}: {plan.in_flight_bytes / 1e6:.0f} MB of requests and answers at a time, "
            f"and in_flight_limit_bytes says {settings.in_flight_limit_bytes / 1e6:.0f} MB",
            "allow more: MemoryMax= of the service, limits of the container, ulimit -v",
        )
    else:
        yield ok("memory", found)


def examine_clock(_: Settings) -> Iterator[Finding]:
    """Say whether something keeps the clock right: deadlines and schedules follow it."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if now < _EARLIEST_S:
        yield failure("clock", f"it is {shown}", "set it: every deadline would be wrong")
        return
    status = _clock_status()
    if status is None:
        yield note("clock", f"it is {shown}; this system does not say who sets it")
    elif status & _UNSYNCHRONIZED:
        yield warning(
            "clock",
            f"it is {shown}, and nothing keeps it right",
            "run chrony or systemd-timesyncd here; in a container, on its host",
        )
    else:
        yield ok("clock", f"it is {shown}, and is kept right")


def _clock_status() -> int | None:
    """Return the status word of the kernel's clock; None if it does not say."""
    if sys.platform != "linux":
        return None
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # all zeros: only look
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (AttributeError, OSError):
        return None
    if state < 0:
        return None  # a filter of system calls forbids it
    return ctypes.c_int.from_buffer_copy(buffer, _STATUS_OFFSET).value


def examine_user(_: Settings) -> Iterator[Finding]:
    """Say as whom a server would run."""
    if os.geteuid() == 0:
        yield note("user", "root", "a server needs no rights: give it a user of its own")
    else:
        yield ok("user", f"{os.geteuid()}, who is not root")
