"""Blocking code of a node, in turn with the event loop and in its time.

The log of a node blocks: it waits for an engine, and sleeps. Here such code runs in a thread of its
own, but never at the same time as the event loop: the loop stands still until the code wants to
wait, and then lets simulated time pass. So a run is the same each time.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import trio

Result = TypeVar("Result")

_here: Final = threading.local()


class NodeEnded(BaseException):
    """The node was killed: what its code was about to do does not happen."""


@dataclass
class _Done:
    result: Any = None
    error: BaseException | None = None


class LockStep:
    """One life of a node: all of its blocking code ends with it.

    `rest` is awaited for each wait, with how long it is in seconds.
    """

    def __init__(self, rest: Callable[[float], Any]) -> None:
        self.has_ended = False
        self._rest = rest

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns; in it, `wait_s` lets time pass. Raises what it raises."""
        talk = _Talk(self, trio._core._run.GLOBAL_RUN_CONTEXT.runner)
        thread = threading.Thread(target=talk.work, args=(work,), name="simulated node")
        thread.start()
        try:
            while True:
                said = talk.said.get()
                if isinstance(said, _Done):
                    break
                await self._rest(said)
                talk.go_on.put(self.has_ended)
        except BaseException:
            while not isinstance(said, _Done):
                talk.has_ended = True
                talk.go_on.put(True)
                said = talk.said.get()
            raise
        finally:
            thread.join()
        if said.error is not None:
            raise said.error
        result: Result = said.result
        return result


class _Talk:
    """What a thread and the event loop say to each other."""

    def __init__(self, life: LockStep, runner: Any) -> None:
        self.said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.go_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.has_ended = False
        self._life = life
        self._runner = runner

    def work(self, work: Callable[[], Any]) -> None:
        """Do the work; for the thread."""
        _here.talk = self
        # The loop stands still, so its time and its tasks are this thread's as well.
        trio._core._run.GLOBAL_RUN_CONTEXT.runner = self._runner
        done = _Done()
        try:
            done.result = work()
        except BaseException as error:
            done.error = error
        finally:
            del trio._core._run.GLOBAL_RUN_CONTEXT.runner
        self.said.put(done)

    def wait(self, duration_s: float) -> None:
        """Let time pass. Raises NodeEnded."""
        if not (self.has_ended or self._life.has_ended):
            self.said.put(duration_s)
            if not self.go_on.get():
                return
        raise NodeEnded


def wait_s(duration_s: float) -> None:
    """Let simulated time pass, in code that `LockStep.run` runs. Raises NodeEnded."""
    talk: _Talk = _here.talk
    talk.wait(duration_s)
