"""A sandbox: an isolated process with a function's code, in which its executions run.

One execution at a time. A Python sandbox is a zygote and forks for each execution. A JavaScript one
carries them out itself, one after the other, as long as each leaves nothing that keeps Node.js
going (`runner.js`). `runner.py` is what runs inside; `sandboxed_execution.py` runs an execution in
one. The code that starts a sandbox ends it, with `end`, which leaves no process and no file.
"""

import array
import contextlib
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from . import frames
from .builds import UnpackedBuild
from .errors import SandboxError
from .files import empty
from .frames import ChannelBroken, FrameReader, FunctionResponse, failure
from .limits import (
    DATA_EXTRA_BYTES,
    DISK_ENTRIES_LIMIT_COUNT,
    DISK_LIMIT_BYTES,
    FILES_LIMIT_COUNT,
    OUTPUT_KEPT_BYTES,
    OUTPUT_LIMIT_BYTES,
    PROCESSES_LIMIT_COUNT,
    Allowance,
)
from .processes import (
    base_interpreter,
    children,
    descendants,
    end_tree,
    has_strays,
    processor_s,
    register_child,
    resident_bytes,
    send,
    thread_count,
)

PYTHON: Final = "PY"
JAVASCRIPT: Final = "JS"
_RUNNER: Final = Path(__file__).with_name("runner.py")
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_READ_BYTES: Final = 64 * 1024
_HEAP_SHARE: Final = 0.75
"""Of a JavaScript function's memory, for what V8 manages itself; the rest is for buffers."""
_USED_AGAIN_SHARE: Final = 0.75
"""A Node.js process that has taken more than this share of its memory is used no more."""
_PROCESSOR_SHARE: Final = 2
"""A Node.js process may use this many times an execution's processor time; see `is_clean`."""

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


class Output:
    """Reads what a function prints: keeps the end, and stops when it is too much."""

    def __init__(self, descriptor: int) -> None:
        """Take over the reading end of a pipe."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._kept = bytearray()
        self._count = 0

    def begin_again(self) -> None:
        """Forget what was printed so far: what comes from now on is another execution's."""
        self.drain()
        self._kept.clear()
        self._count = 0

    async def read(self) -> bool:
        """Read to the end; False if it is more than `OUTPUT_LIMIT_BYTES`."""
        while True:
            try:
                part = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._descriptor)
                continue
            if not part:
                return True
            self._take(part)
            if self._count > OUTPUT_LIMIT_BYTES:
                return False
            # A function that always prints must not keep other tasks waiting.
            await trio.lowlevel.checkpoint()

    def _take(self, part: bytes) -> None:
        self._count += len(part)
        self._kept += part
        del self._kept[:-OUTPUT_KEPT_BYTES]

    def text(self) -> str:
        """Return the end of what was printed."""
        shown = self._kept.decode(errors="replace").strip()
        return f"… {shown}" if self._count > len(self._kept) else shown

    def drain(self) -> bool:
        """Take what is there, without waiting; False if it is more than `OUTPUT_LIMIT_BYTES`."""
        if self._descriptor == -1:
            return self._count <= OUTPUT_LIMIT_BYTES
        with contextlib.suppress(BlockingIOError):
            # A pipe holds no more than this.
            while self._count <= OUTPUT_LIMIT_BYTES:
                part = os.read(self._descriptor, _READ_BYTES)
                if not part:
                    break
                self._take(part)
        return self._count <= OUTPUT_LIMIT_BYTES

    def close(self) -> None:
        """Take what is there, and read no more."""
        if self._descriptor == -1:
            return
        self.drain()
        trio.lowlevel.notify_closing(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1


class Sandbox:
    """One sandbox. Made by `start`; `wait_until_ready` before its first use; `end` at last."""

    def __init__(
        self,
        machine: Computer,
        language: str,
        build: UnpackedBuild,
        uid: int | None,
        directory: Path,
    ) -> None:
        self.language = language
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
        self._frames = FrameReader()
        self._allowance: Allowance | None = None
        self._processor_began_s = 0.0
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

    async def start(self, allowance: Allowance) -> None:
        """Start its process, which imports the code. Raises SandboxError, OSError."""
        self._allowance = allowance
        self._frames = FrameReader(allowance.result)
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
        config = msgspec.json.encode(self._config(allowance))
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

    def _config(self, allowance: Allowance) -> dict[str, object]:
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": DISK_LIMIT_BYTES,
            "RLIMIT_NOFILE": FILES_LIMIT_COUNT,
            "RLIMIT_NPROC": PROCESSES_LIMIT_COUNT,
        }
        if self.uid is None:
            # Counted are all of the user's, the node's too.
            limits["RLIMIT_NPROC"] += thread_count(os.geteuid())
        if self.language == PYTHON:
            # Not the address space: programs that it starts, of Go or Node.js, only reserve most of
            # theirs. V8 itself ends in a way that tells nothing, so it is only watched.
            limits["RLIMIT_DATA"] = allowance.memory_bytes + DATA_EXTRA_BYTES
        call_filter = self._machine.call_filter
        return {
            "language": self.language,
            "code": str(self.build.path),
            "work": str(self.work),
            "uid": self.uid,
            "gid": self.build.gid,
            "private_files": self._machine.private_files,
            "call_filter": call_filter.hex() if call_filter is not None else None,
            "limits": limits,
            "processor_s": allowance.processor_s
            * (_PROCESSOR_SHARE if self.language == JAVASCRIPT else 1),
            "node_process_id": os.getpid(),
            "script": str(self._machine.script) if self.language == JAVASCRIPT else None,
            "program": self._machine.node_program,
            "result_bytes": allowance.result.body_bytes,
            "heap_mb": max(16, int(allowance.memory_mb * _HEAP_SHARE)),
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

    async def open_execution(self) -> tuple[trio.socket.SocketType, Output]:
        """Return the channel and the output of the next task.

        Raises OSError if the sandbox has ended.
        """
        self.executions_count += 1
        if self.language == JAVASCRIPT:
            self._processor_began_s = processor_s(self.process_id)
            self.output.begin_again()
            return self.control, self.output
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        descriptors = array.array("i", (theirs.fileno(), writing))
        channel, output = trio.socket.from_stdlib_socket(ours), Output(reading)
        try:
            await self.control.sendmsg(
                [b"T"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            )
        except BaseException:
            channel.close()
            output.close()
            raise
        finally:
            theirs.close()
            os.close(writing)
        return channel, output

    def reader_of_execution(self, allowance: Allowance) -> FrameReader:
        """Return what makes frames of what an execution sends by its channel."""
        return self._frames if self.language == JAVASCRIPT else FrameReader(allowance.result)

    def close_execution(self, channel: trio.socket.SocketType, output: Output) -> None:
        """Close what `open_execution` has opened for an execution; the sandbox keeps its own."""
        if self.language == PYTHON:
            output.close()
            channel.close()

    @property
    def tells_end_by_channel(self) -> bool:
        """Return whether an execution's end comes by its channel, unless its process ends."""
        return self.language == JAVASCRIPT

    def processor_time_s(self) -> float:
        """Return the processor time that the execution has used, where the kernel does not say.

        The kernel limits that of a process: of one that carries out several executions it is theirs
        together.
        """
        if self.language == PYTHON:
            return 0.0
        return processor_s(self.process_id) - self._processor_began_s

    async def wait_execution_ended(self) -> int | None:
        """Wait until an execution's process has ended: its exit status as of `exit_status`.

        None if the zygote itself is gone, or does not say.
        """
        if self.language == JAVASCRIPT:
            await self._wait_exit()
            return self.exit_status()
        kind, content = await self._next_frame()
        if kind == frames.ENDED and content.isdigit() and len(content) < 7:
            return os.waitstatus_to_exitcode(int(content))
        self.is_broken = True
        return None

    async def _wait_exit(self) -> None:
        descriptor = os.pidfd_open(self.process_id)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)

    def execution_processes(self) -> list[int]:
        """Return the processes that an execution has now, its first one first."""
        found = descendants(self.process_id)
        return found if self.language == PYTHON else [self.process_id, *found]

    async def is_clean(self) -> bool:
        """Remove the last execution's files; return whether another one may run here. Raises
        OSError.

        Its import may have started threads, which are still there and may get in the way. A
        Node.js process must have left what another execution may need of processor time and memory.
        """
        if self.is_broken or self.exit_status() is not None:
            return False
        if self.language == JAVASCRIPT:
            assert self._allowance is not None, "it was started"
            used_s, used_bytes = processor_s(self.process_id), resident_bytes(self.process_id)
            if is_used_up(used_s, used_bytes, self._allowance):
                return False
        if children(self.process_id) or has_strays():
            return False
        await self.remove_files()
        return True

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


def is_used_up(used_s: float, used_bytes: int, allowance: Allowance) -> bool:
    """Return whether a Node.js process has used too much for another execution to have its share.

    `used_s` is processor time, `used_bytes` memory.
    """
    return used_s > allowance.processor_s or used_bytes > allowance.memory_bytes * _USED_AGAIN_SHARE


async def send_all(channel: trio.socket.SocketType, content: bytes) -> None:
    """Send everything. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[await channel.send(view) :]
