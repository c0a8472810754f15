"""What functions print: the end of it is in the node's log, and the limit holds for all of it."""

import json

import pytest

from tests.node.conftest import Ground
from tests.node.fake_server import Code, javascript, python

pytestmark = pytest.mark.slow

TALKATIVE = {
    "PY": python(
        "def handle(request):\n    print('line\\n' * 20_000)\n    raise ValueError('the reason')\n"
    ),
    "JS": javascript(
        "exports.handle = () => { console.log('line\\n'.repeat(20000));"
        " throw new RangeError('the reason'); };"
    ),
}
TWO_MEGABYTES = "'x'.repeat(2000000)"
MUCH = "for (let i = 0; i < 350; i++) console.log('x'.repeat(65535));"


def printed(ground: Ground, task_id: str) -> str:
    """What the log shows of a task's output."""
    lines = [line for line in ground.node.log().splitlines() if line.startswith("{")]
    entries = [json.loads(line) for line in lines]
    return "".join(
        entry["output"]
        for entry in entries
        if entry["event"] == "a function has printed" and entry["task"] == task_id
    )


@pytest.mark.parametrize("language", TALKATIVE)
def test_the_traceback_of_a_talkative_function_is_logged(ground: Ground, language: str) -> None:
    task = ground.server.run(TALKATIVE[language])

    shown = printed(ground, task.id)
    assert "Error: the reason" in shown
    assert "handler." in shown.rpartition("line\\n")[2]


@pytest.mark.parametrize(
    "ending",
    ["return 'done'", "process.exit(3)", "throw new Error('no')", "process.stderr.write('last')"],
)
def test_what_a_javascript_function_printed_last_is_there(ground: Ground, ending: str) -> None:
    code = javascript(
        f"exports.handle = () => {{ console.log({TWO_MEGABYTES}); console.log('the end');"
        f" {ending}; }};"
    )

    task = ground.server.run(code)

    assert "the end" in printed(ground, task.id)


@pytest.mark.parametrize(
    "code",
    [
        javascript(f"exports.handle = () => {{ {MUCH} return 'well'; }};"),
        javascript(f"exports.handle = () => {{ {MUCH} process.exit(0); }};"),
        javascript(f"{MUCH} exports.handle = () => 'well';"),
        python("def handle(request):\n    print('x' * (17 << 20))\n    return 'well'\n"),
        python(
            "import os\ndef handle(request):\n"
            "    left = (16 << 20) + 1\n"
            "    while left: left -= os.write(1, bytes(left))\n"
            "    return 'well'\n"
        ),
    ],
)
def test_the_limit_of_output_cannot_be_passed(ground: Ground, code: Code) -> None:
    task = ground.server.run(code)

    assert (task.status, task.json()["error"]["type"]) == (500, "OutputLimit")
    ground.assert_well()


def test_what_python_code_prints_while_it_is_loaded_is_logged(ground: Ground) -> None:
    code = python("print('said while loading')\ndef handle(request): return 'well'\n")

    assert ground.server.run(code).body == b"well"
    assert "said while loading" in ground.node.log()
