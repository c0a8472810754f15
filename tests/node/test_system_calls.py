"""System calls that functions may not make, and that what programs use goes on working without.

As in `test_containment`, each test runs real processes in a real node.
"""

import errno
import json
import platform
from pathlib import Path

import pytest

from troth.node.filter import ARCHITECTURES, CLONE, CLONE3, NAMESPACE_FLAGS, REFUSED

from .conftest import Ground, error_of, source
from .fake_server import javascript, python, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "attack",
    [
        "file = os.memfd_create('hidden')",
        "if libc.shmget(0, 400 << 20, 0o1600) == -1: raise OSError(ctypes.get_errno(), 'shmget')",
    ],
)
def test_memory_that_belongs_to_no_process_cannot_be_had(ground: Ground, attack: str) -> None:
    code = source("import ctypes", "libc = ctypes.CDLL(None, use_errno=True)", attack)

    status, kind, message = error_of(ground, code)

    assert (status, kind) == (500, "PermissionError")
    assert message.startswith("[Errno 1]")


@pytest.mark.parametrize("flag", NAMESPACE_FLAGS)
def test_no_namespaces_can_be_made(ground: Ground, flag: str) -> None:
    """In one of users, a process has all capabilities, so more of the kernel to attack."""
    _, column = ARCHITECTURES[platform.machine()]
    signal_child = 17
    code = source(
        "import ctypes",
        "libc = ctypes.CDLL(None, use_errno=True)",
        f"flags = {NAMESPACE_FLAGS[flag]} | {NAMESPACE_FLAGS['CLONE_NEWUSER']}",
        "found = [libc.unshare(flags) and ctypes.get_errno()]",
        f"child = libc.syscall({CLONE[column]}, flags | {signal_child}, 0, 0, 0, 0)",
        "if child == 0: os._exit(0)",
        "return [*found, child, ctypes.get_errno()]",
    )

    assert ground.server.run(code).json() == [errno.EPERM, -1, errno.EPERM]
    ground.assert_well()


def test_the_calls_of_the_table_are_refused_also_after_the_start_of_a_program(
    ground: Ground,
) -> None:
    _, column = ARCHITECTURES[platform.machine()]
    numbers = {name: both[column] for name, both in REFUSED.items()}
    calling = (
        "import ctypes, json\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "zeros = [ctypes.c_long(0)] * 6\n"
        f"numbers = { ({**numbers, 'clone3': CLONE3[column]})!r}\n"
        "found = {name: libc.syscall(ctypes.c_long(number), *zeros) and ctypes.get_errno()\n"
        "         for name, number in numbers.items()}\n"
    )
    here = python(f"{calling}def handle(request):\n    return found\n")
    below = python(
        "import subprocess, sys\n"
        "def handle(request):\n"
        f"    command = (sys.executable, '-c', {calling + 'print(json.dumps(found))'!r})\n"
        "    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout\n"
    )
    expected = {**dict.fromkeys(numbers, errno.EPERM), "clone3": errno.ENOSYS}

    assert ground.server.run(here).json() == expected
    assert json.loads(ground.server.run(below).body) == expected
    ground.assert_well()


def test_python_can_use_threads_and_processes(ground: Ground) -> None:
    code = python(
        "import asyncio, concurrent.futures, multiprocessing, subprocess, sys, threading\n"
        "from multiprocessing import shared_memory\n"
        "def double(number):\n"
        "    return 2 * number\n"
        "def fill(name):\n"
        "    shared = shared_memory.SharedMemory(name, track=False) if sys.version_info >= (3, 13)"
        " else shared_memory.SharedMemory(name)\n"
        "    shared.buf[0] = 7\n"
        "    shared.close()\n"
        "async def spawned():\n"
        "    process = await asyncio.create_subprocess_exec('true')\n"
        "    return await process.wait()\n"
        "def handle(request):\n"
        "    found = []\n"
        "    thread = threading.Thread(target=found.append, args=('thread',))\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "    with concurrent.futures.ThreadPoolExecutor(4) as pool:\n"
        "        found += pool.map(double, range(3))\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        found += pool.map(double, range(3))\n"
        "    shared = shared_memory.SharedMemory(create=True, size=4096)\n"
        "    context = multiprocessing.get_context('fork')\n"
        "    process = context.Process(target=fill, args=[shared.name])\n"
        "    process.start()\n"
        "    process.join()\n"
        "    found.append(shared.buf[0])\n"
        "    shared.close()\n"
        "    shared.unlink()\n"
        "    found.append(subprocess.check_output('echo shell; true', shell=True, text=True))\n"
        "    found.append(asyncio.run(spawned()))\n"
        "    return found\n"
    )

    task = ground.server.run(code)

    assert task.json() == ["thread", 0, 2, 4, 0, 2, 4, 7, "shell\n", 0]
    wait_until(lambda: not ground.left_processes())


def test_what_is_written_to_shared_memory_counts_as_files(ground: Ground) -> None:
    if ground.node.mode == "one user":
        assert "`/dev/shm` is the machine's" in Path("node/README.md").read_text()
        return
    code = source(
        "for number in range(3):",
        "    with open(f'/dev/shm/{number}', 'wb') as file:",
        "        for _ in range(100): file.write(bytes(1 << 20))",
        "time.sleep(60)",
    )

    assert error_of(ground, code)[:2] == (500, "DiskLimit")


def test_javascript_can_use_threads_processes_and_the_network(ground: Ground) -> None:
    code = javascript(
        "const { execFileSync, spawnSync, fork } = require('node:child_process');\n"
        "const { readFile } = require('node:fs/promises');\n"
        "const http = require('node:http');\n"
        "const zlib = require('node:zlib');\n"
        "const { promisify } = require('node:util');\n"
        "const { Worker } = require('node:worker_threads');\n"
        "const once = require('node:events').once;\n"
        "exports.handle = async () => {\n"
        "  const found = {};\n"
        "  const text = \"require('node:worker_threads').parentPort.postMessage(6 * 7)\";\n"
        "  const worker = new Worker(text, { eval: true });\n"
        "  [found.worker] = await once(worker, 'message');\n"
        "  found.shell = execFileSync('sh', ['-c', 'echo shell']).toString();\n"
        "  found.program = spawnSync(process.execPath, ['-p', '6 * 7']).stdout.toString();\n"
        "  found.pool = (await promisify(zlib.gzip)('x')).length > 0;\n"
        "  const server = http.createServer((_, response) => response.end('fetched'));\n"
        "  server.listen(0, '127.0.0.1');\n"
        "  await once(server, 'listening');\n"
        "  const url = `http://127.0.0.1:${server.address().port}/`;\n"
        "  found.fetch = await (await fetch(url)).text();\n"
        "  server.closeAllConnections();\n"
        "  server.close();\n"
        "  const status = await readFile('/proc/self/status', 'utf8');\n"
        "  found.filter = /^Seccomp:\\s*(\\d)/m.exec(status)[1];\n"
        "  found.namespace = spawnSync('unshare', ['--user', 'true']).status;\n"
        "  return found;\n"
        "};\n"
    )

    task = ground.server.run(code, timeout_s=100, memSize=512)

    assert task.json() == {
        "worker": 42,
        "shell": "shell\n",
        "program": "42\n",
        "pool": True,
        "fetch": "fetched",
        "filter": "2",
        "namespace": 1,
    }
    wait_until(lambda: not ground.left_processes())
