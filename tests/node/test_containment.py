"""What functions do to the machine they run on: each ends with a clear error, and nothing is left.

Each test runs real processes in a real node, which is then as well as before: the next task runs,
no process and no file of the one before is left.
"""

import getpass
import json
import os
from pathlib import Path

import pytest

from tests.helpers.users import ONE_USER, UID_BASE

from .conftest import Ground, error_of, source
from .fake_server import Code, javascript, python, wait_until

pytestmark = pytest.mark.slow


def test_a_loop_ends_when_its_time_is_over(ground: Ground) -> None:
    failed = error_of(ground, source("while True: pass"), timeout_s=1)

    assert failed == (504, "TimedOut", "the function did not finish within 1 s")


def test_processor_time_is_limited_apart_from_time(ground: Ground) -> None:
    code = source(
        "def work():",
        "    while True: hashlib.pbkdf2_hmac('sha256', b'', b'', 100_000)",
        "import hashlib",
        "for _ in range(4): threading.Thread(target=work).start()",
        "work()",
    )

    status, kind, _ = error_of(ground, code, timeout_s=3, cpuCount=1)

    # On a machine with one processor, or one that is busy, time is over first.
    assert (status, kind) in {(500, "ProcessorLimit"), (504, "TimedOut")}


def test_sleep_ends_when_its_time_is_over(ground: Ground) -> None:
    failed = error_of(ground, source("time.sleep(60)"), timeout_s=1)

    assert failed == (504, "TimedOut", "the function did not finish within 1 s")


def test_ignoring_sigterm_does_not_help(ground: Ground) -> None:
    code = source(
        "for number in range(1, 65):",
        "    try: signal.signal(number, signal.SIG_IGN)",
        "    except (OSError, ValueError): pass",
        "time.sleep(60)",
    )

    assert error_of(ground, code, timeout_s=1)[:2] == (504, "TimedOut")


def test_sigterm_comes_first_so_that_a_function_can_tidy_up(ground: Ground) -> None:
    code = source(
        "def end(*_):",
        "    print('told to end', flush=True)",
        "    os._exit(0)",
        "signal.signal(signal.SIGTERM, end)",
        "time.sleep(60)",
    )

    assert error_of(ground, code, timeout_s=1)[0] == 504
    assert "told to end" in ground.node.log()


def test_a_fork_bomb_is_bounded_and_ends(ground: Ground) -> None:
    code = source(
        "most = 0",
        "while True:",
        "    try:",
        "        os.fork()",
        "    except OSError:",
        "        time.sleep(0.01)",
    )

    assert error_of(ground, code, timeout_s=1)[0] in {500, 504}


def test_filling_memory_is_an_error_of_the_function(ground: Ground) -> None:
    code = source("parts = []", "while True: parts.append(bytearray(1 << 20))")

    status, kind, _ = error_of(ground, code)

    assert status == 500
    assert kind in {"MemoryError", "MemoryLimit"}


def test_memory_is_counted_for_all_processes_together(ground: Ground) -> None:
    code = source(
        "for _ in range(3):",
        "    if os.fork() == 0: break",
        "kept = bytearray(os.urandom(1 << 20) * 60)",
        "time.sleep(60)",
    )

    assert error_of(ground, code) == (
        500,
        "MemoryLimit",
        "the function used more than 128 MB of memory",
    )


def test_filling_the_disk_with_one_file_is_refused(ground: Ground) -> None:
    code = source(
        "with open('large', 'wb') as file:",
        "    while True: file.write(bytes(1 << 20))",
    )

    status, kind, message = error_of(ground, code)

    assert status == 500
    assert kind in {"OSError", "DiskLimit"}, message


def test_filling_the_disk_with_many_files_is_noticed(ground: Ground) -> None:
    code = source(
        "for number in range(100):",
        "    with open(f'{number}', 'wb') as file:",
        "        for _ in range(20): file.write(bytes(1 << 20))",
        "time.sleep(60)",
    )

    assert error_of(ground, code)[:2] == (500, "DiskLimit")


def test_a_deep_directory_is_removed(ground: Ground) -> None:
    code = source(
        "for _ in range(2000):",
        "    os.mkdir('d' * 50)",
        "    os.chdir('d' * 50)",
        "open('file', 'w').close()",
        "os.chmod('.', 0)",
        "return 'deep'",
    )

    task = ground.server.run(code)

    # A tree deeper than a path can be counts as too large, if the node sees it in time.
    assert task.body == b"deep" or task.json()["error"]["type"] == "DiskLimit"
    ground.assert_well()


def test_printing_without_end_is_ended(ground: Ground) -> None:
    code = source("text = 'x' * 65535", "while True: print(text)")

    assert error_of(ground, code) == (
        500,
        "OutputLimit",
        "the function printed more than 16 MB",
    )


def test_children_that_hide_are_found(ground: Ground) -> None:
    code = source(
        "if os.fork() == 0:",
        "    os.setsid()",
        "    if os.fork() == 0:",
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "        signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        "        time.sleep(600)",
        "    os._exit(0)",
        "subprocess.Popen(['sleep', '600'], start_new_session=True)",
        "return 'left some'",
    )

    assert ground.server.run(code).body == b"left some"
    ground.assert_well()


def test_a_child_that_takes_its_parents_orphans_away_is_found(ground: Ground) -> None:
    code = python(
        "import ctypes, os, time\n"
        # In the zygote: it does not take orphans in any more.
        "ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)\n"
        "def handle(request):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(600)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "    return 'left one'\n"
    )

    assert ground.server.run(code).body == b"left one"
    ground.assert_well()


def test_closing_the_result_channel_is_noticed(ground: Ground) -> None:
    code = source("os.closerange(3, 256)", "time.sleep(60)")

    assert error_of(ground, code) == (
        500,
        "BrokenChannel",
        "the function closed its result channel and kept running without a result",
    )


def test_closing_the_result_channel_and_returning_is_no_result(ground: Ground) -> None:
    status, kind, _ = error_of(ground, source("os.close(3)", "return 1"))

    assert (status, kind) == (500, "ProcessEnded")


@pytest.mark.parametrize(
    "garbage",
    [
        "os.urandom(100_000)",
        "b'R' + b'\\xff' * 4",
        "b'R\\0\\0\\0\\1x'",
        "b'P\\0\\0\\0\\3999'",
        "b'X\\0\\0\\0\\0010'",
        "b'E\\0\\0\\0\\2{}'",
        "b'R\\0\\0\\0\\x30\\0\\0\\0\\x2c' + b'[' * 44",
    ],
)
def test_garbage_in_the_result_channel_is_an_error(ground: Ground, garbage: str) -> None:
    code = source(
        "try:",
        f"    while True: os.write(3, {garbage})",
        "except OSError:",
        "    time.sleep(60)",
    )

    status, kind, _ = error_of(ground, code)

    assert status == 500
    assert kind in {"BrokenChannel", "ResultTooLarge"}


def test_a_header_that_cannot_be_sent_is_an_error(ground: Ground) -> None:
    code = source("return {'Header': {'x': 'a\\r\\nset-cookie: b'}}")

    assert error_of(ground, code)[:2] == (500, "BadResponse")


@pytest.mark.parametrize(
    "code",
    [
        source("raise ValueError('half \\ud800')"),
        source(
            "class Meta(type): __name__ = property(lambda self: 'Value\\ud800Error')",
            "class Unnamed(Exception, metaclass=Meta): pass",
            "raise Unnamed('half \\ud800')",
        ),
        javascript("exports.handle = () => { throw new RangeError('half \\ud800'); };"),
    ],
)
def test_an_error_whose_text_is_no_unicode_is_told(ground: Ground, code: Code) -> None:
    status, kind, message = error_of(ground, code)

    assert status == 500
    assert kind in {"ValueError", "Value?Error", "RangeError"}
    assert message in {"half ?", "half \ufffd"}


def test_what_is_no_unicode_costs_no_sandbox(ground: Ground) -> None:
    code = python(
        "import os\n"
        "def handle(request):\n"
        "    if request.Body == 'raise': raise ValueError('\\ud800')\n"
        "    return {'Header': {'x': '\\ud800'}} if request.Body else os.getppid()\n"
    )

    zygotes = set()
    for _ in range(4):
        zygotes.add(ground.server.run(code).body)
        assert ground.server.run(code, b"raise").json()["error"]["type"] == "ValueError"
        assert ground.server.run(code, b"return").json()["error"]["type"] == "UnicodeEncodeError"

    # One for each slot.
    assert len(zygotes) <= 2


def test_a_javascript_header_that_is_no_unicode_is_refused(ground: Ground) -> None:
    """It would arrive as something else; see `test_results.py` for what headers may be."""
    code = javascript("exports.handle = () => ({ Header: { x: 'half \\ud800' } });")

    status, kind, message = error_of(ground, code)
    assert (status, kind) == (500, "BadResponse")
    assert "x" in message


def test_a_huge_result_is_an_error(ground: Ground) -> None:
    failed = error_of(ground, source("return bytes(5 << 20)"))

    assert failed == (500, "ResultTooLarge", "the result is larger than 4194304 bytes")


def test_a_result_may_be_as_large_as_the_limit(ground: Ground) -> None:
    task = ground.server.run(source("return os.urandom(4 << 20)"))

    assert (task.status, len(task.body)) == (200, 4 << 20)
    assert task.headers == {"content-type": "application/octet-stream"}
    ground.assert_well()


def test_exiting_is_no_result(ground: Ground) -> None:
    assert error_of(ground, source("os._exit(7)")) == (
        500,
        "ProcessEnded",
        "the function's process ended with status 7 without a result",
    )


def test_sys_exit_is_an_error(ground: Ground) -> None:
    assert error_of(ground, source("sys.exit('enough')")) == (500, "SystemExit", "enough")


def test_ending_itself_by_a_signal_is_named(ground: Ground) -> None:
    assert error_of(ground, source("os.kill(os.getpid(), signal.SIGSEGV)")) == (
        500,
        "ProcessEnded",
        "the function's process was ended by SIGSEGV without a result",
    )


@pytest.mark.parametrize(
    "attack",
    [
        "os.kill(os.getppid(), signal.SIGKILL)",
        "os.kill(os.getppid(), signal.SIGSTOP)",
        "os.killpg(0, signal.SIGKILL)",
        "os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)",
    ],
)
def test_attacking_its_parent_hurts_only_itself(ground: Ground, attack: str) -> None:
    status, _, _ = error_of(ground, source(attack, "time.sleep(60)"), timeout_s=2)

    assert status in {500, 504}


def test_killing_everything_it_can_reach_does_not_reach_the_node(
    ground: Ground, request: pytest.FixtureRequest
) -> None:
    # Without users of their own, functions can end the node that runs them; it says so itself.
    if ground.node.mode == "one user":
        assert "started by root" in Path("cli/node.py").read_text()
        return
    code = source("os.kill(-1, signal.SIGKILL)", "time.sleep(60)")

    assert error_of(ground, code, timeout_s=2)[0] in {500, 504}


def test_the_nodes_token_cannot_be_read(ground: Ground) -> None:
    code = source(
        f"path = '/proc/{ground.node.process_id}/'",
        "found = []",
        "for name in ('environ', 'mem', 'maps', 'fd/0'):",
        "    try:",
        "        with open(path + name, 'rb') as file: found.append(name)",
        "    except OSError: pass",
        "return found",
    )

    assert ground.server.run(code).json() == []


def test_other_functions_code_and_files_cannot_be_read(ground: Ground) -> None:
    directory = ground.node.directory
    looking = source(
        "found = []",
        f"for root in ('{directory}/builds', '{directory}/run'):",
        "    for folder, _, files in os.walk(root):",
        "        found += [name for name in files if os.access(folder, os.W_OK)]",
        "return found",
    )

    assert ground.server.run(looking).json() == []


def test_the_code_cannot_be_changed(ground: Ground) -> None:
    code = source(
        "try:",
        "    with open(__file__, 'a'): return 'changed'",
        "except OSError:",
        "    return 'kept'",
    )

    assert ground.server.run(code).body == b"kept"


def test_environment_descriptors_and_limits_are_the_documented_ones(ground: Ground) -> None:
    code = source(
        "found = {}",
        "for name in os.listdir('/proc/self/fd'):",
        "    try: found[name] = os.readlink(f'/proc/self/fd/{name}').partition(':')[0]",
        "    except OSError: pass",
        "import resource",
        "kinds = ('CORE', 'FSIZE', 'NOFILE', 'DATA')",
        "return {'descriptors': found, 'environment': dict(os.environ), 'work': os.getcwd(),",
        "        'files': os.listdir(), 'arguments': sys.orig_argv, 'task': request.TaskId,",
        "        'session': os.getsid(0) == os.getpid(), 'ids': [os.getuid(), os.geteuid()],",
        "        'groups': os.getgroups(), 'flags': [sys.flags.isolated, sys.flags.no_site],",
        "        'limits': [resource.getrlimit(getattr(resource, 'RLIMIT_' + kind))",
        "                   for kind in kinds]}",
    )

    seen = ground.server.run(code).json()

    assert seen["descriptors"] == {"0": "/dev/null", "1": "pipe", "2": "pipe", "3": "socket"}
    work = seen["work"]
    # Only where others may not enter the directory of the node's Python, which has a copy then.
    assert seen["environment"].pop("LD_LIBRARY_PATH", "/mnt/python/lib") == "/mnt/python/lib"
    assert seen["environment"] == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": work,
        "TMPDIR": work,
        **dict.fromkeys(
            ("USER", "LOGNAME"), "function" if os.geteuid() == 0 else getpass.getuser()
        ),
        "TROTH_TASK_ID": seen["task"],
    }
    assert seen["files"] == []
    assert seen["session"] is True
    assert "troth_" not in json.dumps(seen["arguments"])
    assert seen["groups"] == []
    assert seen["flags"] == [1, 1]
    megabyte = 1 << 20
    assert seen["limits"] == [[0, 0], [256 * megabyte] * 2, [256, 256], [256 * megabyte] * 2]
    if ground.node.mode == "users":
        assert seen["ids"][0] == seen["ids"][1] >= UID_BASE
        assert work == "/tmp"
    else:
        assert seen["ids"] == [os.geteuid() or ONE_USER] * 2


def test_javascript_is_contained_as_well(ground: Ground) -> None:
    loop = javascript("exports.handle = () => { for (;;) {} };")
    memory = javascript(
        "exports.handle = () => { const kept = []; for (;;) kept.push(Buffer.alloc(1 << 20, 1)); };"
    )
    left = javascript(
        "const { spawn } = require('node:child_process');"
        "exports.handle = () => { spawn('sleep', ['600'], {detached: true}).unref();"
        " return 'left one'; };"
    )

    assert error_of(ground, loop, timeout_s=1)[:2] == (504, "TimedOut")
    assert error_of(ground, memory)[:2] == (500, "MemoryLimit")
    assert ground.server.run(left).body == b"left one"
    ground.assert_well()


def test_what_is_written_to_shared_directories_is_gone(ground: Ground) -> None:
    if ground.node.mode == "one user":
        assert "temporary directories" in Path("node/README.md").read_text()
        return
    marks = ("/tmp/mark-of-d5", "/var/tmp/mark-of-d5", "/dev/shm/mark-of-d5")
    code = source(
        f"for path in {marks!r}:",
        "    with open(path, 'w') as file: file.write('here')",
        "return os.listdir('/tmp')",
    )

    assert ground.server.run(code).json() == ["mark-of-d5"]
    assert [path for path in marks if Path(path).exists()] == []
    ground.assert_well()


def test_nothing_can_be_written_but_in_the_tasks_own_directory(ground: Ground) -> None:
    """On many systems /run/lock is open to everybody: without a quota, and nobody removes it."""
    if ground.node.mode == "one user":
        words = Path("node/README.md").read_text().split()
        assert "If the node was started by root" in " ".join(words)
        return
    code = source(
        "own = {'/tmp', '/var/tmp', '/dev/shm'}",
        "found = []",
        "for folder, folders, _ in os.walk('/'):",
        "    if folder in own or folder == '/proc':",
        "        folders.clear()",
        "    elif os.access(folder, os.W_OK):",
        "        found.append(folder)",
        "return found",
    )

    # All folders of this machine may be many.
    assert ground.server.run(code, timeout_s=25).json() == []
    ground.assert_well()


def test_the_whole_standard_library_can_be_imported(ground: Ground) -> None:
    """Also the rest of packages of which the runner has loaded a part."""
    code = source(
        "import concurrent.futures, email.mime.text, json.tool, urllib.request, xml.dom.minidom",
        "return 'x'.encode('idna').decode()",
    )

    assert ground.server.run(code).body == b"x"


def test_two_tasks_at_a_time_do_not_see_each_other(ground: Ground) -> None:
    code = source(
        "with open('mine', 'w') as file: file.write(request.TaskId)",
        "time.sleep(0.3)",
        "return [os.listdir(), open('mine').read(), os.getppid()]",
    )

    first, second = ground.server.offer(code), ground.server.offer(code)
    found = [first.wait().json(), second.wait().json()]

    assert [one[:2] for one in found] == [[["mine"], first.id], [["mine"], second.id]]
    assert found[0][2] != found[1][2]
    ground.assert_well()


def test_a_zygote_is_not_shared_between_accounts(ground: Ground) -> None:
    code = python("import os\nzygote = os.getpid()\ndef handle(request):\n    return zygote\n")

    same = {ground.server.run(code).body for _ in range(3)}
    other = ground.server.run(code, account="b" * 24).body

    # One for each slot.
    assert len(same) <= 2
    assert other not in same
    wait_until(lambda: not ground.left_processes())
