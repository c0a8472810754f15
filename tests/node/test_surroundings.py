"""What a function finds around it: its user, its files, other programs, processes of its own."""

import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.repository import IMPORT_ROOT
from tests.node.conftest import Ground
from tests.node.fake_server import FakeServer, javascript, python
from tests.node.node_process import NodeProcess

pytestmark = pytest.mark.slow


def test_a_program_that_reserves_much_can_be_started_by_python(ground: Ground) -> None:
    """Node.js, and what is written in Go, map a thousand times what they use."""
    code = python(
        "import subprocess\ndef handle(request):\n"
        "    done = subprocess.run(['node', '-e', 'console.log(6 * 7)'], capture_output=True)\n"
        "    return [done.returncode, done.stdout.decode(), done.stderr.decode()[:200]]\n"
    )

    assert ground.server.run(code).json() == [0, "42\n", ""]
    ground.assert_well()


def test_memory_that_a_process_has_for_itself_is_limited(ground: Ground) -> None:
    code = python("def handle(request):\n    return len(bytearray(300 << 20))\n")

    assert ground.server.run(code).json()["error"]["type"] == "MemoryError"
    ground.assert_well()


def test_its_user_has_a_name(ground: Ground) -> None:
    name = python(
        "import getpass, pwd, os, grp\ndef handle(request):\n"
        "    try: found = [pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name]\n"
        "    except KeyError: found = []\n"
        "    return [getpass.getuser(), os.path.expanduser('~') == os.getcwd(), found]\n"
    )

    user, is_at_home, found = ground.server.run(name).json()

    assert user
    assert is_at_home
    if ground.node.mode == "users":
        assert [user, *found] == ["function"] * 3
        script = javascript("exports.handle = () => require('node:os').userInfo().username;")
        assert ground.server.run(script).body == b"function"
        others = python("import pwd\ndef handle(request): return pwd.getpwnam('root').pw_uid\n")
        assert ground.server.run(others).json() == 0


def test_files_of_loading_are_in_no_execution(ground: Ground) -> None:
    code = python(
        "import os\n"
        "os.makedirs('made/deep')\n"
        "with open('made/file', 'w') as file: file.write('once')\n"
        "def handle(request):\n    return [os.getpid() != loader, os.listdir()]\n"
        "loader = os.getpid()\n"
    )

    assert [ground.server.run(code).json() for _ in range(3)] == [[True, []]] * 3


SPAWNING = python(
    "import multiprocessing, sys\n"
    "def double(number): return 2 * number\n"
    "def handle(request):\n"
    "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
    "        return pool.map(double, [1, 2, 3])\n"
)


def test_processes_can_be_spawned_wherever_the_node_is_installed(tmp_path: Path) -> None:
    """Where functions may not look, too: a spawned process must not look for the runner's file."""
    closed = tmp_path / "closed"
    shutil.copytree(IMPORT_ROOT, closed, ignore=shutil.ignore_patterns("__pycache__"))
    closed.chmod(0o700)
    with (
        FakeServer() as server,
        NodeProcess(tmp_path / "node", server, import_root=closed) as node,
    ):
        assert server.connected.wait(30), node.log()
        runner = closed / "troth" / "node" / "runner.py"
        looking = python("import os\ndef handle(request): return os.path.exists(request.Body)\n")
        assert runner.exists()
        if os.geteuid() == 0:
            assert server.run(looking, str(runner).encode()).json() is False

        assert server.run(SPAWNING, timeout_s=20).json() == [2, 4, 6]
