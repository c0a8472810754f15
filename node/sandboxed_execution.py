"""Runs one execution in a sandbox: watches it, ends it when it must end, and reports its outcome.

The first thing that happens decides: a result, an error, the end of the process without either, a
limit, or the time. What the process does after that changes nothing.

Most executions answer and end within moments. In these only the result is waited for, which takes
no further task; all else is watched from then on (`BRIEF_S`). What a function prints until then
waits in its pipe.
"""

import os
import signal
from collections.abc import Callable
from typing import Final

import trio

from . import frames
from .files import exceeds
from .frames import (
    ChannelBroken,
    FunctionResponse,
    ResultTooLarge,
    failure,
)
from .limits import (
    DISK_ENTRIES_LIMIT_COUNT,
    DISK_LIMIT_BYTES,
    END_GRACE_S,
    MEBIBYTE,
    OUTPUT_LIMIT_BYTES,
    PROGRESS_LIMIT_BYTES,
    TERMINATE_GRACE_S,
    WATCH_FIRST_S,
    WATCH_INTERVAL_S,
    Allowance,
)
from .output import Output
from .processes import proportional_bytes, resident_bytes
from .sandbox import Sandbox, send_all

BRIEF_S: Final = 0.05
"""Until then an execution is not watched, and its slot is kept while its process ends."""
_READ_BYTES: Final = 64 * 1024
_DRAIN_S: Final = 0.1
"""What a process wrote before it ended is there; to read all of it takes no longer."""
_WATCH_SHARE: Final = 10
"""Looking takes at most this fraction of the time, as its denominator."""


class SandboxedExecution:
    """One run of a function. `on_response` is called once, as soon as the outcome is known."""

    def __init__(
        self,
        sandbox: Sandbox,
        allowance: Allowance,
        on_progress: Callable[[int], None],
        on_response: Callable[[FunctionResponse, str], None],
        on_lingering: Callable[[], None],
    ) -> None:
        """Initialize. `on_response` gets the response, and the end of the function's output.

        `on_lingering` is called if the process has not ended soon after that.
        """
        self._sandbox = sandbox
        self._allowance = allowance
        self._on_progress = on_progress
        self._on_response = on_response
        self._on_lingering = on_lingering
        self._reader = sandbox.reader_of_execution()
        self._is_read = False
        """Nothing more is to be read from its channel."""
        self._progress_bytes = 0
        self._decided = trio.Event()
        self._ended = trio.Event()
        self._status: int | None = None
        self._is_late = False
        self._has_result = False
        self._channel: trio.socket.SocketType
        self._output: Output

    async def run(self, request: bytes, deadline: float) -> None:
        """Run it until `deadline`, by trio's clock. The sandbox is judged by its owner then."""
        try:
            self._channel, self._output = await self._sandbox.open_execution()
        except OSError:
            self._sandbox.is_broken = True
            message = "the sandbox of the function has ended before the task"
            self._on_response(failure(500, "SandboxEnded", message), "")
            return
        try:
            rest = self._send_now(request)
            if rest or not await self._run_briefly(deadline):
                await self._run_watched(rest, deadline)
        except BaseException:
            self._sandbox.is_broken = True
            raise
        finally:
            self._sandbox.close_execution(self._channel, self._output)

    def _send_now(self, request: bytes) -> bytes:
        """Send what the channel takes without waiting; return the rest."""
        try:
            return request[os.write(self._channel.fileno(), request) :]
        except OSError:
            # It is full, or its process has ended or closed it: reading tells.
            return request

    async def _run_briefly(self, deadline: float) -> bool:
        """Wait for the result and the end for a moment; return whether that was all."""
        descriptor = self._channel.fileno()
        until = min(deadline, trio.current_time() + BRIEF_S)
        with trio.move_on_at(until) as scope:
            while not self._is_read:
                await trio.lowlevel.wait_readable(descriptor)
                try:
                    part = os.read(descriptor, _READ_BYTES)
                except OSError:
                    return False
                if not part:
                    return False
                self._take(part)
            if not self._has_result or self._sandbox.is_broken:
                return False
            if not self._ended.is_set():
                scope.deadline = trio.current_time() + BRIEF_S
                self._status = await self._sandbox.wait_execution_ended()
                self._ended.set()
            return True
        return False

    async def _run_watched(self, rest: bytes, deadline: float) -> None:
        """Go on with everything watched; `rest` is what is left to send."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, rest)
            nursery.start_soon(self._read_channel)
            nursery.start_soon(self._read_output)
            nursery.start_soon(self._wait_ended)
            nursery.start_soon(self._watch)
            with trio.move_on_at(deadline):
                await self._decided.wait()
            if not self._decided.is_set():
                await self._time_out()
            with trio.move_on_after(BRIEF_S):
                await self._ended.wait()
            if not self._ended.is_set():
                self._on_lingering()
                with trio.move_on_after(END_GRACE_S - BRIEF_S):
                    await self._ended.wait()
            if not self._ended.is_set():
                self._sandbox.is_broken = True
            nursery.cancel_scope.cancel()

    def _decide(self, response: FunctionResponse) -> None:
        if not self._decided.is_set():
            self._decided.set()
            if self._is_late:
                # Whatever it says when it is told to end.
                message = f"the function did not finish within {self._allowance.timeout_s} s"
                response = failure(504, "TimedOut", message)
            self._output.drain()
            self._on_response(response, self._output.text())

    def _stop(self, response: FunctionResponse) -> None:
        """Decide against a process that still runs: its sandbox is not used again."""
        self._sandbox.is_broken = True
        self._decide(response)

    async def _time_out(self) -> None:
        self._is_late = True
        self._sandbox.is_broken = True
        self._sandbox.terminate_execution()
        with trio.move_on_after(TERMINATE_GRACE_S):
            await self._ended.wait()
        self._decide(self._ended_without_result())

    async def _send(self, request: bytes) -> None:
        try:
            await send_all(self._channel, request)
        except OSError:
            # Its process has ended or closed the channel; reading tells.
            return

    def _take(self, part: bytes) -> None:
        """Take what has come by the channel; notes whether all has that counts."""
        try:
            self._reader.feed(part)
            while not self._is_read and (found := self._reader.next()) is not None:
                self._is_read = self._take_frame(*found)
        except ChannelBroken as error:
            self._is_read = True
            self._stop(failure(500, "BrokenChannel", str(error)))
        except ResultTooLarge:
            self._is_read = True
            message = f"the result is larger than {self._allowance.result.body_bytes} bytes"
            self._stop(failure(500, "ResultTooLarge", message))

    def _take_frame(self, kind: bytes, content: bytes) -> bool:
        """Take a message; return whether it is the last. Raises ChannelBroken, ResultTooLarge."""
        if kind == frames.ENDED and self._has_result:
            self._status = 0
            self._ended.set()
            return True
        if kind in (frames.RESULT, frames.ERROR) and not self._has_result:
            self._take_result(self._response_of(kind, content))
            return not self._sandbox.tells_end_by_channel
        if kind != frames.PROGRESS or self._has_result:
            raise ChannelBroken("the function's process broke its result channel")
        self._progress_bytes += frames.HEAD_BYTES + len(content)
        if self._progress_bytes > PROGRESS_LIMIT_BYTES:
            raise ChannelBroken("the function reported progress too often")
        self._on_progress(frames.progress(content))
        return False

    async def _read_channel(self) -> None:
        try:
            while not self._is_read:
                part = await self._channel.recv(_READ_BYTES)
                if not part:
                    break
                self._take(part)
        except ConnectionError:
            # The other end was closed with something unread: the same as its end.
            pass
        if self._is_read:
            return
        with trio.move_on_after(END_GRACE_S):
            await self._ended.wait()
        if self._ended.is_set():
            self._decide(self._ended_without_result())
        else:
            message = "the function closed its result channel and kept running without a result"
            self._stop(failure(500, "BrokenChannel", message))

    async def _read_output(self) -> None:
        if not await self._output.read():
            self._stop(_too_much_output())

    def _response_of(self, kind: bytes, content: bytes) -> FunctionResponse:
        """Return what a function has answered. Raises ChannelBroken, ResultTooLarge."""
        if kind == frames.ERROR:
            return failure(500, *frames.error_of(content))
        return frames.response(content, self._allowance.result)

    def _take_result(self, response: FunctionResponse) -> None:
        """Decide for what has come, unless what was printed before it was too much."""
        self._has_result = True
        if self._output.drain():
            self._decide(response)
        else:
            self._stop(_too_much_output())

    async def _wait_ended(self) -> None:
        self._status = await self._sandbox.wait_execution_ended()
        self._ended.set()
        # Something it has left behind may hold the channel open.
        with trio.move_on_after(_DRAIN_S):
            await self._decided.wait()
        self._decide(self._ended_without_result())

    def _ended_without_result(self) -> FunctionResponse:
        status = self._status
        if status is None:
            message = "the function ended its parent process"
            return failure(500, "ProcessEnded", message)
        if status >= 0:
            message = f"the function's process ended with status {status} without a result"
            return failure(500, "ProcessEnded", message)
        if -status == signal.SIGXCPU:
            return self._too_much_processor_time()
        name = _signal_name(-status)
        message = f"the function's process was ended by {name} without a result"
        return failure(500, "ProcessEnded", message)

    def _too_much_processor_time(self) -> FunctionResponse:
        limit = self._allowance.processor_s
        return failure(500, "ProcessorLimit", f"the function used {limit} s of processor time")

    async def _watch(self) -> None:
        """Look at memory and disk from time to time; most executions end before the first look."""
        await trio.sleep(WATCH_FIRST_S - BRIEF_S)
        while not self._decided.is_set():
            begin = trio.current_time()
            processes = self._sandbox.execution_processes()
            limit_bytes = self._allowance.memory_bytes
            if sum(map(resident_bytes, processes)) > limit_bytes and (
                sum(map(proportional_bytes, processes)) > limit_bytes
            ):
                message = f"the function used more than {self._allowance.memory_mb} MB of memory"
                self._stop(failure(500, "MemoryLimit", message))
                return
            if self._sandbox.processor_time_s() > self._allowance.processor_s:
                self._stop(self._too_much_processor_time())
                return
            if await trio.to_thread.run_sync(
                exceeds, self._sandbox.work, DISK_LIMIT_BYTES, DISK_ENTRIES_LIMIT_COUNT
            ):
                message = (
                    f"the function's files are larger than {DISK_LIMIT_BYTES // MEBIBYTE} MB, or "
                    f"more than {DISK_ENTRIES_LIMIT_COUNT}"
                )
                self._stop(failure(500, "DiskLimit", message))
                return
            taken_s = trio.current_time() - begin
            await trio.sleep(max(WATCH_INTERVAL_S, taken_s * _WATCH_SHARE))


def _too_much_output() -> FunctionResponse:
    message = f"the function printed more than {OUTPUT_LIMIT_BYTES // MEBIBYTE} MB"
    return failure(500, "OutputLimit", message)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
