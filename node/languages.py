"""The languages of functions, and the sandbox of each.

A Python sandbox is a zygote and forks for each execution. A JavaScript one carries them out itself,
one after the other, as long as each leaves nothing that keeps Node.js going (`runner.js`).
"""

import array
import os
import socket
from typing import ClassVar, Final, final

import trio

from . import frames
from .frames import FrameReader
from .limits import DATA_EXTRA_BYTES, Allowance
from .output import Output
from .processes import descendants, processor_s, resident_bytes
from .sandbox import Sandbox

PYTHON: Final = "PY"
JAVASCRIPT: Final = "JS"

_HEAP_SHARE: Final = 0.75
"""Of a JavaScript function's memory, for what V8 manages itself; the rest is for buffers."""
_USED_AGAIN_SHARE: Final = 0.75
"""A Node.js process that has taken more than this share of its memory is used no more."""
_PROCESSOR_SHARE: Final = 2
"""A Node.js process may use this many times an execution's processor time; see `is_clean`."""


@final
class PythonSandbox(Sandbox):
    """A zygote, which has imported the code and forks for each execution."""

    language: ClassVar[str] = PYTHON
    tells_end_by_channel: ClassVar[bool] = False
    has_spare: ClassVar[bool] = False

    def _limits(self) -> dict[str, int]:
        # Not the address space: programs that it starts, of Go or Node.js, only reserve most of
        # theirs.
        data_bytes = self._allowance.memory_bytes + DATA_EXTRA_BYTES
        return {**super()._limits(), "RLIMIT_DATA": data_bytes}

    def keep_output(self) -> None:
        # From here on it prints nothing; each execution has an output of its own.
        self.output.close()

    async def open_execution(self) -> tuple[trio.socket.SocketType, Output]:
        self.executions_count += 1
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

    def reader_of_execution(self) -> FrameReader:
        return FrameReader(self._allowance.result)

    def close_execution(self, channel: trio.socket.SocketType, output: Output) -> None:
        output.close()
        channel.close()

    def processor_time_s(self) -> float:
        return 0.0

    async def wait_execution_ended(self) -> int | None:
        kind, content = await self._next_frame()
        if kind == frames.ENDED and content.isdigit() and len(content) < 7:
            return os.waitstatus_to_exitcode(int(content))
        self.is_broken = True
        return None

    def execution_processes(self) -> list[int]:
        return descendants(self.process_id)


@final
class JavaScriptSandbox(Sandbox):
    """A Node.js process, which carries out executions itself, one after the other."""

    language: ClassVar[str] = JAVASCRIPT
    tells_end_by_channel: ClassVar[bool] = True
    has_spare: ClassVar[bool] = True
    _processor_began_s = 0.0

    def _config(self) -> dict[str, object]:
        # V8 itself ends in a way that tells nothing where memory is limited, so it is only watched.
        return {
            **super()._config(),
            "processor_s": self._allowance.processor_s * _PROCESSOR_SHARE,
            "script": str(self._machine.script),
            "program": self._machine.node_program,
            "heap_mb": max(16, int(self._allowance.memory_mb * _HEAP_SHARE)),
        }

    def keep_output(self) -> None:
        self.output.drain()

    async def open_execution(self) -> tuple[trio.socket.SocketType, Output]:
        self.executions_count += 1
        self._processor_began_s = processor_s(self.process_id)
        self.output.begin_again()
        return self.control, self.output

    def reader_of_execution(self) -> FrameReader:
        return self._frames

    def close_execution(self, channel: trio.socket.SocketType, output: Output) -> None:
        """Close nothing: both are the sandbox's own."""

    def processor_time_s(self) -> float:
        return processor_s(self.process_id) - self._processor_began_s

    async def wait_execution_ended(self) -> int | None:
        descriptor = os.pidfd_open(self.process_id)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        return self.exit_status()

    def execution_processes(self) -> list[int]:
        return [self.process_id, *descendants(self.process_id)]

    def _is_used_up(self) -> bool:
        used_s, used_bytes = processor_s(self.process_id), resident_bytes(self.process_id)
        return is_used_up(used_s, used_bytes, self._allowance)


def is_used_up(used_s: float, used_bytes: int, allowance: Allowance) -> bool:
    """Return whether a Node.js process has used too much for another execution to have its share.

    `used_s` is processor time, `used_bytes` memory.
    """
    return used_s > allowance.processor_s or used_bytes > allowance.memory_bytes * _USED_AGAIN_SHARE


SANDBOXES: Final[dict[str, type[Sandbox]]] = {
    made.language: made for made in (PythonSandbox, JavaScriptSandbox)
}
"""By the language's name."""
