"""Makes a machine ready to be a node: its directory, its users, what it can run.

A node's directory belongs to one process at a time (a lock) and holds its id, the code it has
fetched and the sandboxes. Whatever an earlier run left in it is ended and removed first.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog
import trio

from .builds import UnpackedBuild
from .errors import NodeError, SandboxError
from .files import empty
from .filter import filter_of_this_machine
from .guard import END_LIMIT_S, end_marked
from .languages import JAVASCRIPT, PYTHON, SANDBOXES
from .limits import USERS_COUNT, Allowance
from .processes import (
    adopt_orphans,
    base_interpreter,
    end_user,
    forget_child,
    keep_memory_private,
    register_child,
)
from .sandbox import Computer

_PROBE_ALLOWANCE: Final = Allowance(timeout_s=10, cpu_count=1, memory_mb=512)
# A module that nothing has imported before: what matters is whether it can be read.
_PROBE_FILES: Final = {
    PYTHON: ("handler.py", "import calendar\nhandle = calendar.isleap\n"),
    JAVASCRIPT: ("handler.js", "exports.handle = () => null;\n"),
}
_ID_FILE: Final = "node-id"
_LOCK_FILE: Final = "lock"
_SANDBOXES: Final = "run"
_GUARD: Final = Path(__file__).with_name("guard.py")
_TAKE_LIMIT_S: Final = END_LIMIT_S + 1.0
_TAKE_INTERVAL_S: Final = 0.05
_SCRIPT: Final = Path(__file__).with_name("runner.js")

_log = structlog.get_logger("troth.node")


@dataclass(frozen=True)
class Place:
    """A node's directory, ready for use. `first_gid` is None if builds have no groups."""

    node_id: str
    machine: Computer
    builds: Path
    languages: tuple[str, ...]

    @property
    def first_gid(self) -> int | None:
        """The first of the groups of builds: the user ids are the same numbers."""
        return self.machine.first_uid


@contextlib.asynccontextmanager
async def taken(directory: Path, uid_base: int) -> AsyncIterator[None]:
    """Own a node's directory and its range of user ids for a block. Raises NodeError."""
    lock = _open_lock(directory)
    # A name that is free again when its owner ends, however it does.
    users = socket.socket(socket.AF_UNIX)
    try:
        try:
            await _insist(lambda: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except OSError as error:
            raise NodeError(f"another node uses the directory {directory}") from error
        if os.geteuid() == 0:
            try:
                await _insist(lambda: users.bind(f"\0troth-node-users-{uid_base}"))
            except OSError as error:
                raise NodeError(
                    f"another node runs tasks as the users from {uid_base} on; choose others "
                    f"with --uid-base, {USERS_COUNT} or more away"
                ) from error
        with _guarded(directory, uid_base, (lock, users.fileno())):
            yield
    finally:
        users.close()
        os.close(lock)


def _open_lock(directory: Path) -> int:
    """Open the lock of a directory, which is made if need be. Raises NodeError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        owner_uid = directory.stat().st_uid
        if owner_uid != os.geteuid():
            # Its owner could replace what is changed and removed in it.
            raise NodeError(
                f"the directory {directory} belongs to user {owner_uid}, not to the one who starts "
                f"the node, {os.geteuid()}; choose another one with --directory, or remove it"
            )
        directory.chmod(0o711)
        return os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NodeError(f"the directory {directory} cannot be used: {error.strerror}") from error


async def _insist(take: Callable[[], None]) -> None:
    """Take a lock that the guard of a node that was killed may have for a moment. Raises OSError"""
    deadline = trio.current_time() + _TAKE_LIMIT_S
    while True:
        try:
            take()
        except OSError:
            if trio.current_time() > deadline:
                raise
            await trio.sleep(_TAKE_INTERVAL_S)
        else:
            return


@contextlib.contextmanager
def _guarded(directory: Path, uid_base: int, locks: tuple[int, ...]) -> Iterator[None]:
    """Run a second process for a block, which ends what functions leave; see `guard.py`."""
    left: tuple[str, ...] = ("marked", _mark(directory / _SANDBOXES))
    if os.geteuid() == 0:
        left = ("users", str(uid_base), str(USERS_COUNT))
    command = (base_interpreter(), "-I", "-S", str(_GUARD), *left)
    guard = subprocess.Popen(  # noqa: S603 — nothing of it comes from outside
        command,
        cwd="/",
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=locks,
        # A signal to the node's group is not for it.
        start_new_session=True,
    )
    register_child(guard.pid)
    try:
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()
        forget_child(guard.pid)


def _mark(sandboxes: Path) -> str:
    """Return the variable by which processes of functions are told from others of the same user."""
    return f"HOME={sandboxes}/"


async def prepare(directory: Path, uid_base: int) -> Place:
    """Make a directory that is `taken` ready. Raises NodeError, OSError."""
    if not hasattr(os, "pidfd_open"):
        raise NodeError("a node needs Linux")
    adopt_orphans()
    keep_memory_private()
    sandboxes = directory / _SANDBOXES
    first_uid = uid_base if os.geteuid() == 0 else None
    await _remove_leftovers(sandboxes, first_uid)
    sandboxes.mkdir(mode=0o711, exist_ok=True)
    sandboxes.chmod(0o711)
    script = directory / _SCRIPT.name
    script.write_bytes(_SCRIPT.read_bytes())
    script.chmod(0o644)
    program = shutil.which("node") or shutil.which("nodejs")
    call_filter, problem = filter_of_this_machine()
    if call_filter is None:
        _log.warning("tasks can make all system calls, and so exceed their limits", problem=problem)
    has_users = first_uid is not None
    machine = Computer(sandboxes, program, script, first_uid, has_users, call_filter)
    machine, languages = await _probe(directory / "probe", machine)
    return Place(_node_id(directory), machine, directory / "builds", languages)


def _node_id(directory: Path) -> str:
    path = directory / _ID_FILE
    with contextlib.suppress(FileNotFoundError, ValueError):
        # There is none yet, or one that was not written to its end.
        return str(uuid.UUID(path.read_text(encoding="ascii").strip()))
    node_id = str(uuid.uuid4())
    part = path.with_suffix(".part")
    with part.open("w", encoding="ascii") as file:
        file.write(node_id + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    return node_id


async def _remove_leftovers(sandboxes: Path, first_uid: int | None) -> None:
    if first_uid is not None:
        for uid in range(first_uid, first_uid + USERS_COUNT):
            await end_user(uid)
    else:
        end_marked(os.fsencode(_mark(sandboxes)), time.monotonic() + END_LIMIT_S)
    with contextlib.suppress(FileNotFoundError):
        # The first time.
        empty(sandboxes)


async def _probe(directory: Path, machine: Computer) -> tuple[Computer, tuple[str, ...]]:
    """Try which ways of shutting in and which languages work here."""
    problem = await _try(directory, machine, PYTHON)
    if problem is not None and machine.private_files:
        _log.warning(
            "tasks share the machine's temporary directories: this process is not allowed to mount",
            problem=problem,
        )
        machine = replace(machine, private_files=False)
        problem = await _try(directory, machine, PYTHON)
    if problem is not None:
        raise NodeError(
            f"no function can be run here: {problem}. The user that runs functions must be able to "
            f"read {sys.base_prefix} and {directory.parent}"
        )
    if machine.node_program is None:
        return machine, (PYTHON,)
    problem = await _try(directory, machine, JAVASCRIPT)
    if problem is not None:
        _log.warning("JavaScript is not offered: Node.js cannot be run", output=problem)
        return machine, (PYTHON,)
    return machine, (PYTHON, JAVASCRIPT)


async def _try(directory: Path, machine: Computer, language: str) -> str | None:
    """Load a function that does nothing; what went wrong, if anything."""
    _write_probe(directory, language)
    build = UnpackedBuild("", directory, machine.first_uid, 0)
    place = machine.directory / "probe"
    sandbox = SANDBOXES[language](machine, build, machine.first_uid, place, _PROBE_ALLOWANCE)
    try:
        problem = "it did not start in time"
        with trio.move_on_after(_PROBE_ALLOWANCE.timeout_s):
            await sandbox.start()
            failed = await sandbox.wait_until_ready()
            sandbox.output.drain()
            problem = "" if failed is None else sandbox.output.text() or failed.error or ""
    except (SandboxError, OSError) as error:
        problem = str(error)
    finally:
        with trio.CancelScope(shield=True):
            await sandbox.end()
        shutil.rmtree(directory)
    return problem or None


def _write_probe(directory: Path, language: str) -> None:
    if directory.exists():
        # An earlier run was ended in the middle.
        shutil.rmtree(directory)
    directory.mkdir()
    directory.chmod(0o755)
    name, text = _PROBE_FILES[language]
    (directory / name).write_text(text, encoding="ascii")
    (directory / name).chmod(0o644)
