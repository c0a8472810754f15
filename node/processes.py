"""Processes as the kernel sees them: their descendants and memory, and ending them.

Everything a function starts descends from its sandbox: orphans go to the sandbox's first process,
and when that is gone, or does not want them, to this one (`adopt_orphans`). So a walk down from
there finds all of them. If a sandbox has a user of its own, the kernel itself says whether anything
is left, and ends it all in one call.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from typing import Final

import trio

_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_FREEZE_LIMIT_COUNT: Final = 200
_END_TIMEOUT_S: Final = 10.0
_END_INTERVAL_S: Final = 0.005
# kill(-1) reaches every process of the caller's user but the caller, with no gap for a new one.
_KILL_USER: Final = """
import os, signal, sys
uid = int(sys.argv[1])
os.setresuid(uid, uid, uid)
os.kill(-1, signal.SIGKILL)
"""

_own_children: Final[set[int]] = set()


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind. Raises OSError."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def keep_memory_private() -> None:
    """Keep other processes of this user from this one's memory and environment. Raises OSError."""
    _control(_PR_SET_DUMPABLE, 0)


def _control(option: int, argument: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def register_child(process_id: int) -> None:
    """Say that a child of this process is meant to be: `end_strays` leaves it alone."""
    _own_children.add(process_id)


def forget_child(process_id: int) -> None:
    """Say that a child that was registered has been waited for."""
    _own_children.discard(process_id)


def children(process_id: int) -> list[int]:
    """Return the processes whose parent is this one; ended ones too until they are waited for."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        # Gone in the meantime: then it has none.
        for thread in os.listdir(f"/proc/{process_id}/task"):
            with open(f"/proc/{process_id}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def descendants(process_id: int) -> list[int]:
    """Return all processes below this one, parents first."""
    found = children(process_id)
    for child in found:
        # The list grows while it is walked.
        found += children(child)
    return found


def user_has_processes(uid: int) -> bool:
    """Return whether any process runs for a user, or has ended and not been waited for."""
    try:
        os.getpriority(os.PRIO_USER, uid)
    except ProcessLookupError:
        return False
    return True


def resident_bytes(process_id: int) -> int:
    """Return the memory a process has in use, shared or not, or 0 if it is gone."""
    try:
        with open(f"/proc/{process_id}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def processor_s(process_id: int) -> float:
    """Return the processor time of a process, without that of its children; 0 if it is gone."""
    try:
        with open(f"/proc/{process_id}/stat", "rb") as file:
            # The name before may hold anything; what follows begins with the third field.
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0


def proportional_bytes(process_id: int) -> int:
    """Return the memory a process uses, shared pages counted in parts; 0 if it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{process_id}/smaps_rollup", "rb") as file:
        # Not readable for processes that hide themselves: the caller has the other number.
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return resident_bytes(process_id)


def has_strays() -> bool:
    """Return whether an orphan has come to this process."""
    return any(child not in _own_children for child in children(os.getpid()))


def thread_count(uid: int) -> int:
    """Return how many threads a user's processes have; `RLIMIT_NPROC` counts them."""
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            # Gone in the meantime.
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def send(process_id: int, signal_number: signal.Signals) -> None:
    """Send a signal to a process, if there still is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process_id, signal_number)


def end_strays() -> None:
    """End and wait for what came to this process as an orphan."""
    for child in children(os.getpid()):
        if child not in _own_children:
            freeze_and_kill(child)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


async def end_user(uid: int) -> None:
    """End whatever runs for a user. Returns when it is gone, or after ten seconds."""
    with trio.move_on_after(_END_TIMEOUT_S):
        while user_has_processes(uid):
            await _kill_user(uid)
            await trio.sleep(_END_INTERVAL_S)


async def end_tree(first: "subprocess.Popen[bytes]", uid: int | None) -> bool:
    """End a sandbox: its first process, all below it, and all of its user's if it has one.

    Returns when all are gone; False if some are still there after ten seconds (a disk that hangs).
    """
    with trio.move_on_after(_END_TIMEOUT_S):
        is_first_look = True
        while True:
            if first.poll() is None:
                freeze_and_kill(first.pid)
            else:
                forget_child(first.pid)
            end_strays()
            if first.poll() is not None and not _is_left(uid):
                forget_child(first.pid)
                return True
            if uid is not None and not is_first_look:
                await _kill_user(uid)
            is_first_look = False
            await trio.sleep(_END_INTERVAL_S)
    return False


def _is_left(uid: int | None) -> bool:
    if uid is not None:
        return user_has_processes(uid)
    return has_strays()


def freeze_and_kill(process_id: int) -> None:
    """Stop a process and all below it, until no new ones appear; then end them."""
    frozen: list[int] = []
    seen: set[int] = set()
    for _ in range(_FREEZE_LIMIT_COUNT):
        new = [one for one in (process_id, *descendants(process_id)) if one not in seen]
        if not new:
            break
        for one in new:
            send(one, signal.SIGSTOP)
        seen.update(new)
        frozen += new
    for one in frozen:
        send(one, signal.SIGKILL)


async def _kill_user(uid: int) -> None:
    process = _start_killer(uid)
    register_child(process.pid)
    descriptor = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
        process.wait()
        forget_child(process.pid)


def _start_killer(uid: int) -> subprocess.Popen[bytes]:
    command = (base_interpreter(), "-I", "-S", "-c", _KILL_USER, str(uid))
    # Nothing of this process's environment or files goes along.
    return subprocess.Popen(command, env={}, stdin=subprocess.DEVNULL)  # noqa: S603


def base_interpreter() -> str:
    """Return the path of this interpreter, without its virtual environment."""
    return str(getattr(sys, "_base_executable", sys.executable))
