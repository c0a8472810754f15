"""The server against the reference: the same requests, the same answers, the same messages.

The runs go on until every request has met every state that the specification names, and has got
every answer that it may get there: `EXPECTED` is the tables of rest.md, as data. What the API can
answer besides has other causes than the state of the objects, and other tests show it.
"""

import re
from collections import Counter
from itertools import product

import pytest
import trio.testing

from tests.helpers.repository import ROOT
from tests.helpers.seeds import seeds_count
from tests.http import client as http_client
from troth.core.codes import Code
from troth.http.settings.settings import Settings

from .histories import Seen
from .operator_histories import BULK_ACTIONS, OperatorHistory
from .pair import DifferenceError, difference, shrunk
from .reference import REFUSAL_OF_STATE, Reference
from .validation import FIELDS
from .wire import running

RUNS_MIN_COUNT = seeds_count(16, 40)
RUNS_LIMIT_COUNT = 400
STEPS_COUNT = 250

ENDED = ("RESOLVED", "REJECTED", "REJECTED_CANCELED", "REJECTED_TIMEDOUT")
TASK_STATES = ("init", "enqueued", "claimed", "completed", "timedout")
Row = tuple[str, str, int]


def creation(name: str) -> set[Row]:
    """rest.md 2.2."""
    rows = {(name, "absent", 20100), (name, "fence", 41200)}
    for state, key, strict in product(("PENDING", *ENDED), ("", ", same key"), ("", ", strict")):
        is_same = key and (state == "PENDING" or not strict)
        rows.add((name, state + key + strict, 20000 if is_same else 40900))
    return rows


def completion() -> set[Row]:
    """rest.md 2.3."""
    name = "complete promise"
    rows = {
        *((name, "absent", 40400), (name, "fence", 41200), (name, "PENDING", 20100)),
        *((name, "REJECTED_TIMEDOUT", 20000), (name, "REJECTED_TIMEDOUT, strict", 40303)),
    }
    ends = product(ENDED[:3], ("", ", strict"), ("", ", same state"), ("", ", same key"))
    for state, strict, same, key in ends:
        code = 20000 if key and (same or not strict) else REFUSAL_OF_STATE[state]
        rows.add((name, state + strict + same + key, code))
    return rows


def waiting(name: str) -> set[Row]:
    """rest.md 4.2."""
    rows = {(name, "absent", 40400), (name, "PENDING", 20100), (name, "waiting", 20000)}
    return rows | {(name, state, 20000) for state in ENDED}


def of_tasks(name: str, codes: dict[str, tuple[int, int]]) -> set[Row]:
    """rest.md 5.6, 5.7, 14.2: the code with the right counter, and with another."""
    rows = {(name, "absent", 40403)}
    for state, (right, other) in codes.items():
        rows |= {(name, state, right), (name, state + ", other counter", other)}
    return rows


EXPECTED: set[Row] = {
    *((name, "-", 40000) for name, fields in FIELDS.items() if fields),
    *creation("create promise"),
    *creation("create promise and task"),
    ("create promise and task", "absent", 40404),
    *completion(),
    *(("read promise", state, 20000) for state in ("PENDING", *ENDED)),
    ("read promise", "absent", 40400),
    *waiting("create callback"),
    *(("create callback", "-", 40001), ("create callback", "fence", 41200)),
    *waiting("create subscription"),
    *of_tasks(
        "claim task",
        {
            "init": (20100, 40307),
            "enqueued": (20100, 40307),
            "claimed": (40305, 40305),
            "completed": (40306, 40306),
            "timedout": (40306, 40306),
        },
    ),
    *of_tasks(
        "complete task",
        {
            "init": (40308, 40308),
            "enqueued": (40308, 40308),
            "claimed": (20100, 40307),
            "completed": (20000, 20000),
            "timedout": (20000, 20000),
        },
    ),
    *of_tasks(
        "drop task",
        dict.fromkeys(TASK_STATES, (20000, 20000)) | {"claimed": (20100, 40307)},
    ),
    *(
        (name, whose, 20000)
        for name in ("heartbeat tasks", "heartbeat locks")
        for whose in ("none", "own", "others'", "own and others'")
    ),
    *((name, "-", 20000) for name in ("search promises", "search schedules")),
    *(("create schedule", "absent", 20100), ("create schedule", "present", 40901)),
    ("create schedule", "present, same key", 20000),
    *(("read schedule", "absent", 40401), ("read schedule", "present", 20000)),
    *(("delete schedule", "absent", 40401), ("delete schedule", "present", 20400)),
    *(("acquire lock", "free", 20100), ("acquire lock", "own", 20100)),
    ("acquire lock", "other's", 40304),
    *(("release lock", "free", 40402), ("release lock", "own", 20400)),
    ("release lock", "other's", 40402),
    # What operators do (ui.md U1 and U3, envelope.md 11.9)
    *(("delete promise", "absent", 40400), ("delete promise", "PENDING", 40930)),
    *(("delete promise", "ended", code) for code in (20400, 40931, 40932)),
    *(
        row
        for verb in ("update", "pause", "resume", "run")
        for row in ((f"{verb} schedule", "absent", 40401), (f"{verb} schedule", "-", 40000))
    ),
    *((f"{verb} schedule", "present", 20000) for verb in ("update", "pause", "resume")),
    *(("run schedule", "present", 20100), ("run schedule", "present, made already", 40900)),
    *(
        ("run bulk job", f"{action} {subject}{is_dry}", 20100)
        for action, subject in BULK_ACTIONS
        for is_dry in ("", ", dry run")
    ),
    ("count", "-", 20000),
    *(
        (f"{verb}", state, 20000 if state == right else 40308)
        for verb, right in (("give task back", "claimed"), ("send task now", "stalled"))
        for state in (*TASK_STATES, "stalled")
    ),
    *((verb, "absent", 40403) for verb in ("give task back", "send task now")),
    *(("break lock", "free", 40402), ("break lock", "held", 20400)),
    *((name, "-", 20000) for name in ("list tasks", "list locks")),
    *((name, "absent", 40400) for name in ("list waiting", "show tree", "tell why")),
    *(
        (name, state, 20000)
        for name in ("list waiting", "show tree", "tell why")
        for state in ("PENDING", *ENDED)
    ),
    *(("send all now", "-", code) for code in (20000, 40000)),
}

# Codes that are not a matter of what the objects are like: overload, credentials, other endpoints.
ELSEWHERE = sorted(set(Code) - {code for _, _, code in EXPECTED})


@pytest.mark.seeds
@pytest.mark.slow
async def test_the_server_does_what_the_specification_says(
    mock_clock: trio.testing.MockClock,
) -> None:
    seen: Seen = Counter()
    events: Counter[str] = Counter()
    for seed in range(RUNS_LIMIT_COUNT):
        if seed >= RUNS_MIN_COUNT and set(seen) >= EXPECTED:
            break
        shard_count = (1, 4)[seed % 2]
        async with running(shard_count) as wire:
            history = OperatorHistory(seed, wire)
            try:
                await history.run(STEPS_COUNT)
            except DifferenceError as error:
                lines = map(str, await shrunk(history.actions, shard_count))
                error.add_note("\n".join((f"seed {seed}, made as short as possible:", *lines)))
                raise
        seen += history.seen
        events += history.events

    assert set(seen) == EXPECTED
    assert set(events) == {"time", "delivered", "not delivered", "try again", "outdated"}


async def test_a_history_with_a_difference_is_made_short_and_plays_again(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is planted in the reference: its locks are never anybody's."""

    def find_no_lock(reference: Reference, arguments: object) -> None:
        """The lock is nobody's."""

    monkeypatch.setattr(Reference, "find_lock", find_no_lock)
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012  the server ends with the block
        async with running(1) as wire:
            history = OperatorHistory(3, wire)
            await history.run(4 * STEPS_COUNT)
    assert caught.value.split(DifferenceError)[1] is None
    short = await shrunk(history.actions, 1)

    assert [action[1] for action in short] == ["acquire lock", "acquire lock"]
    assert len(history.actions) > 10
    assert await difference(short, 1) == await difference(short, 1) is not None


async def test_a_body_beyond_the_limit() -> None:
    async with http_client.running(Settings(body_limit_bytes=100)) as world:
        answer = await world.create("a" * 100)

        assert (answer.status, answer.code) == (413, Code.BODY_TOO_LARGE)


@pytest.fixture(scope="module")
def tests_text() -> str:
    """All other tests."""
    folder = ROOT / "tests"
    paths = [*folder.rglob("*.py"), *folder.rglob("*.txt")]
    return "".join(path.read_text() for path in sorted(paths) if "model" not in path.parts)


@pytest.mark.parametrize("code", ELSEWHERE, ids=lambda code: code.name)
def test_codes_with_other_causes_are_seen_elsewhere(code: Code, tests_text: str) -> None:
    seen_here = code is Code.BODY_TOO_LARGE

    assert seen_here or re.search(rf"\bCode\.{code.name}\b|\b{int(code)}\b", tests_text)
