"""The list of planted faults is up to date, and some of them, drawn by a seed, are caught."""

from collections import Counter
from random import Random

import pytest

from .__main__ import MARK, PAGE, table
from .fault import Fault
from .faults import FAULTS
from .planting import Plantation, StaleFaultError, Verdict, planted

SEED = 2
DRAWN_COUNT = 2
DRAWN = Random(SEED).sample([fault for fault in FAULTS if fault.is_quick], DRAWN_COUNT)
HARMLESS = Fault(
    name="no fault at all",
    file="persistence/wal/frames.py",
    old='"""The bytes of a log segment',
    new='"""The octets of a log segment',
    tests=("tests/persistence/test_frames.py",),
)


@pytest.fixture(scope="module")
def plantation(tmp_path_factory: pytest.TempPathFactory) -> Plantation:
    """A copy of the repository."""
    return Plantation(tmp_path_factory.mktemp("mutation"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_can_be_planted(fault: Fault) -> None:
    text = planted(fault)

    compile(text, fault.file, "exec")


def test_there_are_enough_and_each_has_its_name() -> None:
    names = Counter(fault.name for fault in FAULTS)

    assert len(FAULTS) >= 30
    assert set(names.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("fault", DRAWN, ids=lambda fault: fault.name)
def test_the_fault_is_caught(fault: Fault, plantation: Plantation) -> None:
    verdict = plantation.judge(fault)

    assert verdict.caught_by is not None, f"seed {SEED}: nothing has noticed {fault.name!r}"


@pytest.mark.slow
def test_what_is_no_fault_is_not_caught(plantation: Plantation) -> None:
    assert plantation.judge(HARMLESS).caught_by is None


def test_a_stale_fault_is_an_error() -> None:
    gone = Fault("gone", "persistence/wal/frames.py", "no such text", "", HARMLESS.tests)
    twice = Fault("twice", "persistence/wal/frames.py", "def ", "def ", HARMLESS.tests)
    untested = Fault("untested", HARMLESS.file, HARMLESS.old, "", ("tests/no_such_test.py",))

    for fault in (gone, twice, untested):
        with pytest.raises(StaleFaultError, match=fault.name):
            planted(fault)


def test_the_page_names_every_fault() -> None:
    shown = PAGE.read_text().partition(MARK)[2]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in shown.splitlines()]

    assert {fault.name for fault in FAULTS} <= set(rows), "run `python -m tests.mutation --write`"
    assert "nothing" not in {line.rpartition("| ")[2] for line in shown.splitlines()}
    assert f"{len(FAULTS)} of {len(FAULTS)} are caught." in shown.splitlines()


def test_the_table_says_what_was_missed() -> None:
    verdicts = [
        Verdict(HARMLESS, None, 1.0),
        Verdict(HARMLESS, "tests/a/test_b.py::test_c[1]", 1.0),
    ]

    assert table(verdicts).splitlines()[0] == "1 of 2 are caught."
    assert table(verdicts).splitlines()[-2:] == [
        "| no fault at all | `persistence/wal/frames.py` | **nothing** |",
        "| no fault at all | `persistence/wal/frames.py` | `a/test_b.py` `test_c` |",
    ]
