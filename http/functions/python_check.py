"""Checking that Python source compiles and has a handler, in a process that may crash.

Nothing of the source is run. The process has no environment, little memory and little time, so
source that exhausts or crashes the compiler fails only its own build.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from troth.core.limits import COMPILE_MEMORY_LIMIT_BYTES, COMPILE_TIMEOUT_S, HANDLER_LIMIT_BYTES
from troth.persistence.shortage import PATIENCE_S, is_shortage, pauses, relieve

VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python that source is checked with: the server's own."""

_CHILD: Final = str(Path(__file__).with_name("python_check_child.py"))


async def check_python(
    source: bytes,
    name: str,
    *,
    timeout_s: int = COMPILE_TIMEOUT_S,
    memory_bytes: int = COMPILE_MEMORY_LIMIT_BYTES,
) -> list[str]:
    """Return what is wrong with the source of a file of this name; empty if nothing is."""
    if len(source) > HANDLER_LIMIT_BYTES:
        return [
            f"{name}: is {len(source)} bytes large; allowed are at most {HANDLER_LIMIT_BYTES}. "
            "Put data and libraries into files of their own"
        ]
    command = [sys.executable, "-I", "-S", "-W", "ignore", _CHILD]
    with trio.move_on_after(PATIENCE_S + timeout_s * 2):
        finished = await _run([*command, name, str(timeout_s), str(memory_bytes)], source)
        if finished.returncode == 0:
            problems: list[str] = json.loads(finished.stdout)
            return problems
    return [f"{name}: cannot be compiled within {timeout_s} seconds and the memory allowed"]


async def _run(command: list[str], source: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run a process; as long as descriptors or memory are short, wait until it can begin."""
    pauses_s = pauses()
    while True:
        try:
            return await trio.run_process(
                command,
                stdin=source,
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
                env={},
                deliver_cancel=_kill,
            )
        except OSError as error:
            pause_s = next(pauses_s, None)
            if pause_s is None or not is_shortage(error):
                raise
        relieve()
        await trio.sleep(pause_s)


async def _kill(process: trio.Process) -> None:
    process.kill()
    await trio.lowlevel.checkpoint()
