"""The parsers take what the corpus holds, and changes of it drawn by a seed; the tool works."""

import dataclasses
from random import Random

import pytest

from .mutator import Mutator
from .running import DefectFound, Report, Target, fuzz, shrink, try_one
from .targets import TARGETS

SEED = 1


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_the_corpus_holds_what_is_accepted_and_what_is_not(target: Target) -> None:
    report = Report()
    for content in target.corpus().values():
        try_one(target, content, report)

    assert report.accepted_count > 0
    assert report.accepted_count < report.inputs_count


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_no_change_is_too_much(target: Target) -> None:
    print(f"seed {SEED}")
    report = fuzz(target, SEED, count=target.quick_count)

    assert report.inputs_count == len(target.corpus()) + target.quick_count


def test_one_seed_is_one_sequence() -> None:
    def drawn(seed: int) -> list[bytes]:
        mutator = Mutator(Random(seed), [b"one thing", b"and another"], [b"word"])
        return [mutator.next() for _ in range(100)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 50


def fails_on_a_null(content: bytes) -> bool:
    if b"\0" in content:
        raise ZeroDivisionError("a null")
    return True


def test_a_defect_is_found_and_made_small() -> None:
    broken = dataclasses.replace(TARGETS["cron"], check=fails_on_a_null)

    with pytest.raises(DefectFound, match="ZeroDivisionError: a null") as caught:
        fuzz(broken, SEED, count=10_000)

    assert caught.value.content == b"\0"


def test_what_takes_too_long_is_a_defect() -> None:
    slow = dataclasses.replace(TARGETS["cron"], limit_s=0.0)

    with pytest.raises(DefectFound, match="Slow"):
        fuzz(slow, SEED, count=1)


def test_guided_by_lines_it_gets_further() -> None:
    target = TARGETS["cron"]
    blind = fuzz(target, SEED, count=300)
    guided = fuzz(target, SEED, count=300, guided=True)

    assert blind.lines_count == 0
    assert guided.lines_count > 50
    assert guided.kept


def test_shrinking_keeps_what_matters() -> None:
    assert shrink(b"abcXdefYghi", lambda one: b"X" in one and b"Y" in one) == b"XY"
