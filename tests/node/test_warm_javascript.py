"""Node.js processes that carry out one execution after the other: what one leaves to the next."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests.node.conftest import Ground
from tests.node.fake_server import Code, javascript, wait_until
from tests.node.test_output import printed
from troth.node.languages import is_used_up
from troth.node.limits import MEBIBYTE, Allowance

pytestmark = pytest.mark.slow

COUNTING = "let count = 0;\n"
SEEN = "[process.pid, ++count]"


def answers(ground: Ground, code: Code, count: int, **options: Any) -> list[Any]:
    """What so many executions, one after the other, have answered."""
    return [ground.server.run(code, **options).json() for _ in range(count)]


def times_used(found: Iterable[Any]) -> list[int]:
    """How often each process was used, given answers that begin with its number."""
    return sorted(Counter(one[0] for one in found).values())


def test_a_process_is_used_again(ground: Ground) -> None:
    """At most two: the next execution may begin before the last one's process is free again."""
    code = javascript(f"{COUNTING}exports.handle = () => {SEEN};")

    found = answers(ground, code, 10)

    used = times_used(found)
    assert len(used) <= 2, used
    assert max(count for _, count in found) == used[-1]
    ground.assert_well()


def test_other_accounts_and_other_code_have_other_processes(ground: Ground) -> None:
    codes = [javascript(f"exports.handle = () => [process.pid]; // {name}") for name in "ab"]
    places = [(code, account) for code in codes for account in ("11" * 12, "22" * 12)]

    found = [
        {ground.server.run(code, account=account).json()[0] for _ in range(3)}
        for code, account in places
    ]

    assert sum(map(len, found)) == len(set().union(*found))


@pytest.mark.parametrize(
    "leaving",
    [
        "setTimeout(() => {}, 60000)",
        "setInterval(() => console.log('still here'), 1)",
        "require('node:net').createServer().listen(0)",
        "require('node:child_process').spawn('sleep', ['60'])",
        "setImmediate(function again() { setTimeout(again, 1); })",
        "process.exitCode = 3; setTimeout(() => process.exit(), 1)",
    ],
)
def test_what_keeps_node_js_going_ends_with_the_execution(ground: Ground, leaving: str) -> None:
    code = javascript(f"{COUNTING}exports.handle = () => {{ {leaving}; return {SEEN}; }};")

    found = answers(ground, code, 3)

    assert [count for _, count in found] == [1, 1, 1]
    assert times_used(found) == [1, 1, 1]
    wait_until(lambda: not ground.left_processes())
    ground.assert_well()


@pytest.mark.parametrize(
    "kept",
    [
        "setInterval(() => {}, 60000);",
        "require('node:net').createServer().listen(0);",
    ],
)
def test_what_the_import_has_opened_stays(ground: Ground, kept: str) -> None:
    code = javascript(f"{kept}\n{COUNTING}exports.handle = () => {SEEN};")

    assert max(times_used(answers(ground, code, 6))) >= 3


def test_what_does_not_keep_node_js_going_may_stay(ground: Ground) -> None:
    """As the idle connections of `fetch` do."""
    code = javascript(
        f"{COUNTING}exports.handle = () => {{ setTimeout(() => {{}}, 60000).unref();"
        f" return {SEEN}; }};"
    )

    assert max(times_used(answers(ground, code, 6))) >= 3


def test_environment_directory_and_files_are_as_after_the_import(ground: Ground) -> None:
    code = javascript(
        "const fs = require('node:fs');\n"
        "process.env.KEPT = 'import';\n"
        "exports.handle = (request) => {\n"
        "  const found = [process.pid, process.env.KEPT, process.env.NEW ?? null,"
        " process.env.TROTH_TASK_ID === request.TaskId, process.cwd() === process.env.HOME,"
        " fs.readdirSync('.')];\n"
        "  fs.writeFileSync('file', 'x'); fs.mkdirSync('deep'); process.chdir('deep');\n"
        "  process.env.KEPT = 'changed'; process.env.NEW = 'x'; return found;\n};"
    )

    found = answers(ground, code, 6)

    assert [one[1:] for one in found] == [["import", None, True, True, []]] * 6
    assert max(times_used(found)) >= 3


def test_each_execution_has_its_own_output(ground: Ground) -> None:
    code = javascript(
        "console.log('imported');\n"
        "exports.handle = (request) => { console.log(`said ${request.Body}`); return 1; };"
    )

    tasks = [ground.server.run(code, f"{number}.".encode()) for number in range(4)]

    assert [printed(ground, task.id).strip() for task in tasks] == [
        f"said {number}." for number in range(4)
    ]


def test_errors_end_no_process(ground: Ground) -> None:
    code = javascript(
        f"{COUNTING}exports.handle = (request) => {{ if (request.Body) throw new Error('no'); "
        f"return {SEEN}; }};"
    )

    for _ in range(3):
        assert ground.server.run(code, b"fail").json()["error"]["message"] == "no"
    assert max(count for _, count in answers(ground, code, 4)) >= 2


def test_progress_after_the_result_counts_for_nothing(ground: Ground) -> None:
    code = javascript(
        f"{COUNTING}let last = null;\nexports.handle = (request) => {{ last?.progress(50);"
        f" last = request; return {SEEN}; }};"
    )

    assert max(times_used(answers(ground, code, 6))) >= 3


@pytest.mark.parametrize(
    ("used_s", "used_bytes", "is_too_much"),
    [
        (0.0, 0, False),
        (21.0, 96 * MEBIBYTE, False),
        (21.01, 0, True),
        (0.0, 96 * MEBIBYTE + 1, True),
    ],
)
def test_what_is_left_of_a_process_must_do_for_another_execution(
    used_s: float, used_bytes: int, is_too_much: bool
) -> None:
    """The kernel limits what a process uses, not what an execution does."""
    assert is_used_up(used_s, used_bytes, Allowance(20, 1, 128)) is is_too_much


def test_a_process_that_has_kept_much_memory_is_not_used_again(ground: Ground) -> None:
    code = javascript(
        f"{COUNTING}const kept = [];\nexports.handle = () => {{"
        f" kept.push(Buffer.alloc(24 << 20, 1)); return {SEEN}; }};"
    )

    found = answers(ground, code, 6)

    assert all(len(one) == 2 for one in found), found
    assert max(count for _, count in found) <= 3
