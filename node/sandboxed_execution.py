"""Runs one execution in a sandbox: watches it, ends it when it must end, and reports its outcome.

The first thing that happens decides: a result, an error, the end of the process without either, a
limit, or the time. What the process does after that changes nothing.
"""

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
from .processes import proportional_bytes, resident_bytes
from .sandbox import Output, Sandbox, send_all

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
    ) -> None:
        """Initialize. `on_response` gets the response, and the end of the function's output."""
        self._sandbox = sandbox
        self._allowance = allowance
        self._on_progress = on_progress
        self._on_response = on_response
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
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, request)
                nursery.start_soon(self._read_channel)
                nursery.start_soon(self._read_output)
                nursery.start_soon(self._wait_ended)
                nursery.start_soon(self._watch)
                with trio.move_on_at(deadline):
                    await self._decided.wait()
                if not self._decided.is_set():
                    await self._time_out()
                with trio.move_on_after(END_GRACE_S):
                    await self._ended.wait()
                if not self._ended.is_set():
                    self._sandbox.is_broken = True
                nursery.cancel_scope.cancel()
        except BaseException:
            self._sandbox.is_broken = True
            raise
        finally:
            self._sandbox.close_execution(self._channel, self._output)

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

    async def _read_channel(self) -> None:
        limits = self._allowance.result
        reader = self._sandbox.reader_of_execution(self._allowance)
        progress_bytes = 0
        try:
            while part := await self._channel.recv(_READ_BYTES):
                reader.feed(part)
                while (found := reader.next()) is not None:
                    kind, content = found
                    if kind == frames.ENDED and self._has_result:
                        self._status = 0
                        self._ended.set()
                        return
                    if kind in (frames.RESULT, frames.ERROR) and not self._has_result:
                        self._take_result(self._response_of(kind, content))
                        if self._sandbox.tells_end_by_channel:
                            continue
                        return
                    if kind != frames.PROGRESS or self._has_result:
                        raise ChannelBroken("the function's process broke its result channel")
                    progress_bytes += frames.HEAD_BYTES + len(content)
                    if progress_bytes > PROGRESS_LIMIT_BYTES:
                        raise ChannelBroken("the function reported progress too often")
                    self._on_progress(frames.progress(content))
        except ChannelBroken as error:
            self._stop(failure(500, "BrokenChannel", str(error)))
            return
        except ResultTooLarge:
            message = f"the result is larger than {limits.body_bytes} bytes"
            self._stop(failure(500, "ResultTooLarge", message))
            return
        except ConnectionError:
            # The other end was closed with something unread: the same as its end.
            pass
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
        await trio.sleep(WATCH_FIRST_S)
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
