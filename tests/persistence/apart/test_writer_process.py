"""Checkpoints that a process of its own writes: the same rows, or the old ones and an end."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from troth.core.limits import CHECKPOINT_APART_COUNT
from troth.persistence.apart import process as process_module
from troth.persistence.apart import store_writer
from troth.persistence.apart.messages import Order, orders
from troth.persistence.apart.process import WriterProcess
from troth.persistence.errors import (
    CheckpointDamaged,
    CheckpointFailed,
    DataDirectoryLocked,
    DataDirectoryLost,
)

from .captured import COUNT, Opened, captures, contents, deleting, in_place

SOURCES = Path(__file__).parents[3] / "src"
WAIT_LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait as long as it takes for a process that the machine's other work leaves no time."""
    monkeypatch.setattr(process_module, "PATIENCE_S", WAIT_LIMIT_S)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    made = Opened(tmp_path / "s")
    yield made
    made.close()


def is_alive(number: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def stop(number: int) -> None:
    """Stop a process, and wait until it stands: one that is patient may take a while."""
    os.kill(number, signal.SIGSTOP)
    until_s = time.monotonic() + WAIT_LIMIT_S
    while Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < until_s, "the process has not stopped"
        time.sleep(0.01)


def wait_until_gone(number: int) -> None:
    until_s = time.monotonic() + WAIT_LIMIT_S
    while is_alive(number):
        assert time.monotonic() < until_s, "the process has not ended"
        time.sleep(0.01)


def test_the_rows_are_those_of_a_checkpoint_that_is_written_in_place(opened: Opened) -> None:
    """One process writes several, and the filter of ids denies none of them."""
    first, second = captures(1), captures(1 + COUNT)
    third = deleting(first)
    opened.checkpoints.write(first)
    number = opened.process.process_id
    assert number is not None
    opened.checkpoints.renew()
    opened.checkpoints.write(second)
    opened.checkpoints.write(third)
    assert opened.process.process_id == number, "the same process has written all"
    assert contents(opened.store) == in_place(first, second, third)
    opened.checkpoints.renew()
    for capture in second:
        reader = opened.checkpoints.reader.shards[capture.header.shard]
        for name, promise in capture.promises.items():
            if promise is not None and name not in first[capture.header.shard].promises:
                found = reader.promise(name)
                assert (found is None) == (getattr(promise, "completed_on", None) is None)
    assert opened.checkpoints.statistics().filter_ids_count > 2 * COUNT
    opened.checkpoints.verify()

    opened.checkpoints.end_writer()
    assert opened.process.process_id is None
    assert not is_alive(number)


def test_a_small_checkpoint_is_written_in_place_unless_the_process_is_there(
    opened: Opened,
) -> None:
    small = CHECKPOINT_APART_COUNT // 2
    opened.checkpoints.write(captures(1, small))
    assert opened.process.process_id is None
    opened.checkpoints.write(captures(small + 1))
    assert opened.process.process_id is not None
    opened.checkpoints.write(captures(10_000, small))
    opened.checkpoints.end_writer()
    opened.checkpoints.write(captures(20_000, small))
    assert opened.process.process_id is None
    assert opened.checkpoints.writer_problem is None
    expected = in_place(
        captures(1, small), captures(small + 1), captures(10_000, small), captures(20_000, small)
    )
    assert contents(opened.store) == expected


def killing_at(opened: Opened, point: int) -> Callable[..., Iterator[Order]]:
    """Return what says the rows, and kills the process before the one at a place."""

    def killing(*arguments: Any) -> Iterator[Order]:
        for place, order in enumerate(orders(*arguments)):
            if place == point:
                number = opened.process.process_id
                assert number is not None
                os.kill(number, signal.SIGKILL)
                wait_until_gone(number)
            yield order

    return killing


@pytest.mark.parametrize("point", [0, 3, 12])
def test_a_process_that_is_killed_while_it_is_told_the_rows_fails_the_checkpoint(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    """As the out-of-memory killer does. The store is as before, and the next start goes on."""
    opened.checkpoints.write(captures(1))
    with monkeypatch.context() as patch:
        patch.setattr(store_writer, "orders", killing_at(opened, point))
        with pytest.raises(CheckpointFailed, match=r"was ended by SIGKILL.*acknowledged was lost"):
            opened.checkpoints.write(captures(1 + COUNT))
    assert contents(opened.store) == in_place(captures(1))
    path = opened.store.path
    opened.close()
    again = Opened(path)
    again.checkpoints.write(captures(1 + COUNT))
    assert contents(again.store) == in_place(captures(1), captures(1 + COUNT))
    again.checkpoints.verify()
    again.close()


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.02])
def test_a_process_that_is_killed_while_it_commits_leaves_the_old_or_the_new(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, delay_s: float
) -> None:
    opened.checkpoints.write(captures(1))
    commit = WriterProcess.commit

    def killed(process: WriterProcess) -> object:
        number = process.process_id
        assert number is not None
        script = f"import os, time; time.sleep({delay_s}); os.kill({number}, 9)"
        with subprocess.Popen([sys.executable, "-S", "-c", script]):
            return commit(process)

    with monkeypatch.context() as patch:
        patch.setattr(WriterProcess, "commit", killed)
        with contextlib.suppress(CheckpointFailed):  # or it was quicker
            opened.checkpoints.write(captures(1 + COUNT))
    path = opened.store.path
    opened.close()
    again = Opened(path)
    found = contents(again.store)
    assert found in (in_place(captures(1)), in_place(captures(1), captures(1 + COUNT)))
    again.checkpoints.verify()
    again.close()


def test_a_process_that_has_died_between_two_checkpoints_is_replaced(opened: Opened) -> None:
    opened.checkpoints.write(captures(1))
    number = opened.process.process_id
    assert number is not None
    os.kill(number, signal.SIGKILL)
    wait_until_gone(number)
    opened.checkpoints.write(captures(1 + COUNT))
    assert opened.process.process_id not in (None, number)
    assert opened.checkpoints.writer_problem is None
    assert contents(opened.store) == in_place(captures(1), captures(1 + COUNT))


def saying(*lines: str) -> str:
    """Return a program that stands for the process, once a checkpoint has begun."""
    return "\n".join(
        (
            "import sys, socket; sys.path[:] = sys.argv[2:]",
            "from troth.persistence.apart.messages import *",
            "from troth.persistence.apart import messages",
            "connection = socket.socket(fileno=int(sys.argv[1]))",
            "received = Received(connection)",
            "say = lambda message: connection.sendall(messages.encode(message))",
            "begin = order_decoder.decode(received.next())",
            *lines,
        )
    )


READ_ALL = "while not isinstance(order_decoder.decode(received.next()), End): pass"
HEARD = ("say(Ready())", READ_ALL, "say(Ready())")


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(3)",
        "import no_such_module",
        saying("connection.sendall(b'nonsense' * 9)"),
        saying("say(Done([]))"),
        saying("say(Failed(OTHER_RELEASE, ['1.0']))"),
    ],
    ids=["ends", "raises", "nonsense", "too soon", "another release"],
)
def test_what_has_not_begun_is_written_in_place(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """Nothing of the checkpoint was written, so the server can do it, and says why it did."""
    monkeypatch.setattr(process_module, "_START", program)
    opened.checkpoints.write(captures(1))
    assert "the process that was started" in str(opened.checkpoints.writer_problem)
    assert opened.process.process_id is None
    assert contents(opened.store) == in_place(captures(1))
    monkeypatch.undo()
    opened.checkpoints.write(captures(1 + COUNT))
    assert opened.checkpoints.writer_problem is None
    assert contents(opened.store) == in_place(captures(1), captures(1 + COUNT))


def test_where_no_process_can_be_started_it_is_written_in_place(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    opened.checkpoints.write(captures(1))
    assert "temporarily unavailable" in str(opened.checkpoints.writer_problem)
    assert contents(opened.store) == in_place(captures(1))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (("say(Ready())", READ_ALL, "connection.sendall(b'nonsense' * 9)"), "said something else"),
        ((*HEARD, "say(Ready())"), "said something else"),
        ((*HEARD, "say(Done([0] * len(begin.rooms)))"), "left something else"),
        (("say(Ready())", "raise SystemExit(4)"), "ended with status 4"),
        (("say(Ready())", READ_ALL, "say(Failed('KeyError', ['x']))"), "KeyError"),
    ],
    ids=["nonsense", "another word", "a lie", "ends", "an unknown failure"],
)
def test_a_wrong_word_after_the_beginning_fails_the_checkpoint(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...], problem: str
) -> None:
    """What has become of it is unknown; the log has everything, unless it is trimmed."""
    opened.checkpoints.write(captures(1))
    opened.checkpoints.end_writer()
    monkeypatch.setattr(process_module, "_START", saying(*lines))
    with pytest.raises(CheckpointFailed, match=problem):
        opened.checkpoints.write(captures(1 + COUNT))
    assert contents(opened.store) == in_place(captures(1))


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (
            "Failed('CheckpointFailed', ['cannot be written', 'No space left on device'])",
            CheckpointFailed,
            "The disk is full",
        ),
        (
            "Failed('CheckpointDamaged', ['promises', 'a row differs'])",
            CheckpointDamaged,
            "differs",
        ),
        ("Failed('DataDirectoryLost', ['/data'])", DataDirectoryLost, "/data was deleted"),
        ("Failed('MemoryError', ['no memory'])", MemoryError, "no memory"),
    ],
)
def test_an_error_of_the_process_is_one_of_the_server(
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    kind: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(
        process_module, "_START", saying("say(Ready())", READ_ALL, f"say({failure})")
    )
    with pytest.raises(kind, match=words):
        opened.checkpoints.write(captures(1))
    assert opened.process.process_id is None


def test_a_file_that_may_not_grow_fails_the_checkpoint_and_keeps_the_last(
    opened: Opened,
) -> None:
    """The kernel refuses the process to write beyond a limit, as on a full disk."""
    opened.checkpoints.write(captures(1))
    number = opened.process.process_id
    assert number is not None
    size_bytes = opened.store.size_bytes()
    resource.prlimit(number, resource.RLIMIT_FSIZE, (size_bytes // 2, size_bytes // 2))
    with pytest.raises(CheckpointFailed, match=r"cannot be written.*Nothing acknowledged was lost"):
        opened.checkpoints.write(captures(1 + COUNT))
    assert contents(opened.store) == in_place(captures(1))


def test_a_store_that_was_replaced_is_not_written(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "s")
    opened.checkpoints.write(captures(1))
    (tmp_path / "s").rename(tmp_path / "moved")
    (tmp_path / "s").mkdir()
    with pytest.raises(DataDirectoryLost):
        opened.checkpoints.write(captures(1 + COUNT))
    assert list((tmp_path / "s").iterdir()) == []
    opened.close()


HELD = """
    import sys
    from pathlib import Path
    from tests.persistence.apart import captured
    from troth.persistence.apart import store_writer
    opened = captured.Opened(Path(sys.argv[1]))
    opened.checkpoints.write(captured.captures(1))
    say = store_writer.orders
    def held(*arguments):
        for place, order in enumerate(say(*arguments)):
            if place == 8:
                print(opened.process.process_id, flush=True)
                sys.stdin.read()  # until the test has done with this process
            yield order
    store_writer.orders = held
    opened.checkpoints.write(captured.captures(1 + captured.COUNT))
"""


def started(path: Path) -> tuple["subprocess.Popen[str]", int]:
    """Start a server that is in the middle of a checkpoint; return the process that writes it."""
    server = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HELD), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{SOURCES}:{SOURCES.parent}"},
    )
    assert server.stdout is not None
    return server, int(server.stdout.readline())


@pytest.mark.parametrize("both", [False, True])
def test_a_server_that_is_killed_takes_the_process_with_it(tmp_path: Path, both: bool) -> None:
    """The store is that of the last checkpoint; nothing keeps the next server from it."""
    server, number = started(tmp_path / "s")
    if both:
        os.kill(number, signal.SIGKILL)
    server.kill()
    again = Opened(tmp_path / "s")  # it waits for the end of what is left
    assert contents(again.store) == in_place(captures(1))
    again.checkpoints.write(captures(1 + COUNT))
    assert contents(again.store) == in_place(captures(1), captures(1 + COUNT))
    again.close()
    server.communicate()
    wait_until_gone(number)


def test_two_processes_never_write_one_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot end holds the next server up, which says why in the end."""
    server, number = started(tmp_path / "s")
    stop(number)
    server.kill()
    server.communicate()
    monkeypatch.setattr(process_module, "LEFT_BEHIND_S", 0.1)
    with pytest.raises(DataDirectoryLocked, match="in use by another process"):
        Opened(tmp_path / "s")
    assert is_alive(number)
    os.kill(number, signal.SIGCONT)
    monkeypatch.undo()
    again = Opened(tmp_path / "s")
    assert contents(again.store) == in_place(captures(1))
    again.close()


def test_a_signal_to_the_whole_group_does_not_end_the_process(opened: Opened) -> None:
    """Ctrl-C, or the service manager at a stop: the server ends it when it is done."""
    opened.checkpoints.write(captures(1))
    number = opened.process.process_id
    assert number is not None
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(number, one)
    opened.checkpoints.write(captures(1 + COUNT))
    assert opened.process.process_id == number


def test_it_runs_when_the_server_does_not(opened: Opened) -> None:
    opened.checkpoints.write(captures(1))
    number = opened.process.process_id
    assert number is not None
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, number) == min(own + 5, 19)
    assert os.sched_getscheduler(number) == os.SCHED_IDLE


def test_nothing_is_committed_before_the_server_asks(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has all rows by then; so until then it can be ended, and another one begin again."""
    opened.checkpoints.write(captures(1))
    found = []
    commit = WriterProcess.commit

    def looked(process: WriterProcess) -> object:
        found.append(contents(opened.store))
        return commit(process)

    monkeypatch.setattr(WriterProcess, "commit", looked)
    opened.checkpoints.write(captures(1 + COUNT))
    assert found == [in_place(captures(1))]


def test_what_it_has_taken_is_counted(opened: Opened) -> None:
    """Over several processes."""
    seen = [opened.checkpoints.statistics().writer]
    for first in range(3):
        opened.checkpoints.write(captures(1 + first * COUNT))
        seen.append(opened.checkpoints.statistics().writer)
        if first:
            opened.checkpoints.end_writer()
    assert [one.checkpoints_count for one in seen] == [0, 1, 2, 3]
    assert [one.starved_count for one in seen] == [0, 0, 0, 0]
    for before, after in pairwise(seen):
        assert 0 < after.processor_s - before.processor_s <= after.busy_s - before.busy_s + 1
    assert 10 << 20 < seen[3].memory_bytes < 200 << 20


def stopping_at(opened: Opened, point: int) -> Callable[..., Iterator[Order]]:
    """Return what says the rows, and stops the first process before the one at a place.

    Where a busy machine lets it take too long to begin, there is another one by then: the server
    waits for that as long as it takes.
    """
    stopped: list[int] = []

    def stopping(*arguments: Any) -> Iterator[Order]:
        for place, order in enumerate(orders(*arguments)):
            number = opened.process.process_id
            is_first = opened.process._is_patient and not stopped
            if place == point and number is not None and is_first:
                stop(number)
                stopped.append(number)
            yield order

    return stopping


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("point", [0, 3])
def test_a_process_without_processor_time_is_replaced_by_one_that_waits_for_none(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, point: int, is_first: bool
) -> None:
    """It runs when nothing else does; on a machine that is never idle that would be never."""
    first, patient = captures(1), None
    if not is_first:
        opened.checkpoints.write(first)
        patient = opened.process.process_id
    assert opened.process.is_patient
    second = captures(1 + COUNT) if is_first else deleting(first)
    with monkeypatch.context() as patch:
        patch.setattr(process_module, "PATIENCE_S", 0.5)
        patch.setattr(store_writer, "orders", stopping_at(opened, point))
        opened.checkpoints.write(second)
    hasty = opened.process.process_id
    assert hasty not in (None, patient)
    assert not opened.process.is_patient
    assert os.sched_getscheduler(hasty or 0) == os.SCHED_OTHER
    assert contents(opened.store) == in_place(*([] if is_first else [captures(1)]), second)
    opened.checkpoints.verify()
    assert opened.checkpoints.statistics().writer.starved_count == 1
    opened.process._hasty_until_s = 0.0
    opened.checkpoints.write(captures(10_000))
    assert opened.process.process_id == hasty
    assert os.sched_getscheduler(hasty or 0) == os.SCHED_IDLE


def test_pauses_are_made_while_the_rows_are_said(opened: Opened) -> None:
    """After every small piece, so that a busy loop waits for none of them for long."""
    pauses: list[None] = []
    opened.checkpoints.write(captures(1), lambda: pauses.append(None))
    assert len(pauses) >= COUNT // 128
