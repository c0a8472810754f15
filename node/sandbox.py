"""A sandbox: an isolated process with a function's code, in which its executions run.

One execution at a time. This is what the sandboxes of all languages share; `languages.py` has them.
`runner.py` is what runs inside; `sandboxed_execution.py` runs an execution in one. The code that
starts a sandbox ends it, with `end`, which leaves no process and no file.
"""

import contextlib
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import msgspec
import structlog
import trio

from . import frames
from .builds import UnpackedBuild
from .errors import SandboxError
from .files import empty
from .frames import ChannelBroken, FrameReader, FunctionResponse, failure
from .limits import (
    DISK_ENTRIES_LIMIT_COUNT,
    DISK_LIMIT_BYTES,
    FILES_LIMIT_COUNT,
    PROCESSES_LIMIT_COUNT,
    Allowance,
)
from .output import Output
from .processes import (
    base_interpreter,
    children,
    end_tree,
    has_strays,
    register_child,
    send,
    thread_count,
)

_RUNNER: Final = Path(__file__).with_name("runner.py")
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_READ_BYTES: Final = 64 * 1024

_log = structlog.get_logger("troth.node.sandbox")


@dataclass(frozen=True)
class Computer:
    """The properties that all sandboxes on this machine share.

    `node_program` is None without Node.js; `script` is what Node.js runs. `first_uid` is None if
    executions run as the node's own user. `private_files`: executions are given file systems of
    their own. `call_filter` refuses system calls, see `node_filter`; None if there is none for this
    machine.
    """

    directory: Path
    node_program: str | None
    script: Path
    first_uid: int | None
    private_files: bool
    call_filter: bytes | None


class Sandbox(ABC):
    """One sandbox. Made by `start`; `wait_until_ready` before its first use; `end` at last."""

    language: ClassVar[str]
    """As the protocol between servers and nodes calls it."""
    tells_end_by_channel: ClassVar[bool]
    """Whether an execution's end comes by its channel, unless its process ends."""
    has_spare: ClassVar[bool]
    """Whether another one is started while an execution runs: it may be the last in this one."""

    def __init__(
        self,
        machine: Computer,
        build: UnpackedBuild,
        uid: int | None,
        directory: Path,
        allowance: Allowance,
    ) -> None:
        self.build = build
        self.uid = uid
        self.directory = directory
        self.work = directory / "work"
        self.executions_count = 0
        self.is_broken = False
        """Nothing may run in it any more."""
        self.is_loaded = False
        self._machine = machine
        build.users_count += 1
        self._frames = FrameReader(allowance.result)
        self._allowance = allowance
        self._process: subprocess.Popen[bytes] | None = None
        self._is_open = False
        self.control: trio.socket.SocketType
        self.output: Output

    @property
    def is_started(self) -> bool:
        """Return whether it has a process."""
        return self._process is not None

    @property
    def process_id(self) -> int:
        """Its first process: the zygote, or Node.js."""
        assert self._process is not None
        return self._process.pid

    def exit_status(self) -> int | None:
        """Return how its first process has ended: an exit status, or a signal's number negated."""
        assert self._process is not None
        return self._process.poll()

    async def start(self) -> None:
        """Start its process, which imports the code. Raises SandboxError, OSError."""
        self.directory.mkdir(mode=0o711)
        self.directory.chmod(0o711)
        self.work.mkdir(mode=0o700)
        if self.uid is not None:
            assert self.build.gid is not None
            os.chown(self.work, self.uid, self.build.gid)
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        self.control = trio.socket.from_stdlib_socket(ours)
        self.output = Output(reading)
        self._is_open = True
        try:
            self._process = self._launch(theirs, writing)
        finally:
            theirs.close()
            os.close(writing)
        register_child(self._process.pid)
        config = msgspec.json.encode(self._config())
        with contextlib.suppress(OSError):
            # It has ended already; `wait_until_ready` says so.
            await send_all(self.control, frames.frame(frames.CONFIG, config))

    def _launch(self, control: socket.socket, output: int) -> subprocess.Popen[bytes]:
        # From the node's main thread: the kernel ends it with the thread that started it.
        command = (base_interpreter(), "-I", "-S", str(_RUNNER))
        return subprocess.Popen(  # noqa: S603 — nothing of it comes from outside
            command,
            cwd="/",
            # By HOME, an earlier run's processes are found; see `node_machine`.
            env={**_ENVIRONMENT, "HOME": str(self.work), "TMPDIR": str(self.work)},
            stdin=control.fileno(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def _limits(self) -> dict[str, int]:
        """Return what `setrlimit` is to be called with, by the resource's name."""
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": DISK_LIMIT_BYTES,
            "RLIMIT_NOFILE": FILES_LIMIT_COUNT,
            "RLIMIT_NPROC": PROCESSES_LIMIT_COUNT,
        }
        if self.uid is None:
            # Counted are all of the user's, the node's too.
            limits["RLIMIT_NPROC"] += thread_count(os.geteuid())
        return limits

    def _config(self) -> dict[str, object]:
        """Return what `runner.py` is told first."""
        call_filter = self._machine.call_filter
        return {
            "language": self.language,
            "code": str(self.build.path),
            "work": str(self.work),
            "uid": self.uid,
            "gid": self.build.gid,
            "private_files": self._machine.private_files,
            "call_filter": call_filter.hex() if call_filter is not None else None,
            "limits": self._limits(),
            "processor_s": self._allowance.processor_s,
            "node_process_id": os.getpid(),
            "script": None,
            "result_bytes": self._allowance.result.body_bytes,
        }

    async def wait_until_ready(self) -> FunctionResponse | None:
        """Wait for the import; the failure to answer with if there is one.

        Raises SandboxError if this machine is to blame.
        """
        kind, content = await self._next_frame()
        if kind == frames.READY:
            self.is_loaded = True
            return None
        self.is_broken = True
        if kind == frames.NOT_SET_UP:
            _, message = frames.error_of(content)
            raise SandboxError(f"a sandbox cannot be set up: {message}")
        if kind == frames.IMPORT_FAILED:
            error_type, message = frames.error_of(content)
            return failure(500, error_type, f"the function's code cannot be loaded: {message}")
        return failure(500, "LoadingFailed", "the function's code ended while it was loaded")

    async def _next_frame(self) -> tuple[bytes, bytes]:
        """Return the first process's next message; an empty kind at its end or if malformed."""
        try:
            while True:
                found = self._frames.next()
                if found is not None:
                    return found
                part = await self.control.recv(_READ_BYTES)
                if not part:
                    return b"", b""
                self._frames.feed(part)
        except (ChannelBroken, frames.ResultTooLarge, ConnectionError) as error:
            _log.debug("a sandbox broke its channel", problem=str(error))
            return b"", b""

    @abstractmethod
    def keep_output(self) -> None:
        """Take what was printed while the code was loaded: what comes next is an execution's."""

    @abstractmethod
    async def open_execution(self) -> tuple[trio.socket.SocketType, Output]:
        """Return the channel and the output of the next task.

        Raises OSError if the sandbox has ended.
        """

    @abstractmethod
    def reader_of_execution(self) -> FrameReader:
        """Return what makes frames of what an execution sends by its channel."""

    @abstractmethod
    def close_execution(self, channel: trio.socket.SocketType, output: Output) -> None:
        """Close what `open_execution` has opened for an execution; the sandbox keeps its own."""

    @abstractmethod
    def processor_time_s(self) -> float:
        """Return the processor time that the execution has used, where the kernel does not say.

        The kernel limits that of a process: of one that carries out several executions it is theirs
        together.
        """

    @abstractmethod
    async def wait_execution_ended(self) -> int | None:
        """Wait until an execution's process has ended: its exit status as of `exit_status`.

        None if the first process itself is gone, or does not say.
        """

    @abstractmethod
    def execution_processes(self) -> list[int]:
        """Return the processes that an execution has now, its first one first."""

    async def is_clean(self) -> bool:
        """Remove the last execution's files; return whether another one may run here. Raises
        OSError.

        Its import may have started threads, which are still there and may get in the way.
        """
        if self.is_broken or self.exit_status() is not None or self._is_used_up():
            return False
        if children(self.process_id) or has_strays():
            return False
        await self.remove_files()
        return True

    def _is_used_up(self) -> bool:
        """Return whether it has used what another execution may need."""
        return False

    async def remove_files(self) -> bool:
        """Empty a live sandbox's work directory; return whether it had files. Raises OSError."""
        with os.scandir(self.work) as entries:
            has_files = any(True for _ in entries)
        if has_files:
            await trio.to_thread.run_sync(empty, self.work, DISK_ENTRIES_LIMIT_COUNT)
        return has_files

    def terminate_execution(self) -> None:
        """Ask the execution's processes to end."""
        for process_id in self.execution_processes():
            send(process_id, signal.SIGTERM)

    async def end(self) -> bool:
        """Leave nothing of it; False if a process could not be ended, so its user is not free."""
        self.is_broken = True
        is_ended = True
        if self._process is not None:
            is_ended = await end_tree(self._process, self.uid)
        if self._is_open:
            self.control.close()
            self.output.close()
        self.build.users_count -= 1
        if not is_ended:
            # Its files stay until the next start: it could still change them.
            _log.error("a process does not end", process_id=self.process_id, uid=self.uid)
            return False
        if self.work.exists():
            await trio.to_thread.run_sync(empty, self.work)
            self.work.rmdir()
        if self.directory.exists():
            self.directory.rmdir()
        return True


async def send_all(channel: trio.socket.SocketType, content: bytes) -> None:
    """Send everything. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[await channel.send(view) :]
