"""Running a parser over changed inputs, and what is kept of an input that shows a defect.

A defect is any exception that a parser's check lets out: one that is not documented, or a property
that does not hold. It is also one if an input takes longer than `Target.limit_s` of this process's
time.
"""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final

from .mutator import Mutator

CORPUS: Final = Path(__file__).parent / "corpus"
_KEPT_LIMIT_COUNT: Final = 2_000

Check = Callable[[bytes], bool]
"""Whether the parser accepts the input; raises whatever shows a defect."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser. `modules` are the files whose lines an input should reach new ones of.

    The normal test run checks `quick_count` inputs: about a second's.
    """

    name: str
    check: Check
    words: tuple[bytes, ...]
    modules: tuple[str, ...]
    quick_count: int
    limit_s: float = 2.0

    def corpus(self) -> dict[str, bytes]:
        """The inputs that are kept, by the name of their file."""
        files = sorted((CORPUS / self.name).iterdir())
        return {file.name: file.read_bytes() for file in files}


class DefectFound(Exception):
    """An input, made as small as it goes, and what was wrong with it."""

    def __init__(self, target: str, content: bytes, problem: str) -> None:
        super().__init__(f"{target}: {problem}\n  input: {content!r}")
        self.content = content


@dataclass(slots=True)
class Report:
    """What a run has done."""

    inputs_count: int = 0
    accepted_count: int = 0
    lines_count: int = 0
    slowest_s: float = 0.0
    kept: list[bytes] = field(default_factory=list)


def try_one(target: Target, content: bytes, report: Report) -> None:
    """Check one input. Raises DefectFound."""
    problem, accepted, duration_s = _judge(target, content)
    report.inputs_count += 1
    report.accepted_count += accepted
    report.slowest_s = max(report.slowest_s, duration_s)
    if problem is not None:
        smaller = shrink(content, lambda one: _kind(_judge(target, one)[0]) == _kind(problem))
        raise DefectFound(target.name, smaller, _judge(target, smaller)[0] or problem)


def _judge(target: Target, content: bytes) -> tuple[str | None, bool, float]:
    """What is wrong, if anything; whether it was accepted; how long that took."""
    started_s = time.process_time()
    accepted = False
    problem = None
    try:
        accepted = target.check(content)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    duration_s = time.process_time() - started_s
    if problem is None and duration_s > target.limit_s:
        problem = f"Slow: it took longer than {target.limit_s} s"
    return problem, accepted, duration_s


def _kind(problem: str | None) -> str | None:
    return None if problem is None else problem.partition(":")[0]


def shrink(content: bytes, is_still_wrong: Callable[[bytes], bool]) -> bytes:
    """A shorter input that is wrong in the same way: pieces are left out while that goes."""
    size = len(content) // 2
    while size:
        start = 0
        while start < len(content):
            shorter = content[:start] + content[start + size :]
            if is_still_wrong(shorter):
                content = shorter
            else:
                start += size
        size //= 2
    return content


def fuzz(
    target: Target,
    seed: int,
    *,
    count: int | None = None,
    seconds: float | None = None,
    guided: bool = False,
) -> Report:
    """Check the corpus, then changed inputs, so many or for so long. Raises DefectFound.

    If guided, an input that reaches a line which none before has reached is changed further.
    """
    report = Report()
    corpus = list(target.corpus().values())
    reached = _Reached(target.modules) if guided else None
    for content in corpus:
        _try(target, content, report, reached)
    mutator = Mutator(Random(f"{target.name} {seed}"), corpus, target.words)
    end_s = None if seconds is None else time.monotonic() + seconds
    for number in _numbers(count):
        if end_s is not None and number % 64 == 0 and time.monotonic() > end_s:
            break
        content = mutator.next()
        if _try(target, content, report, reached) and len(corpus) < _KEPT_LIMIT_COUNT:
            corpus.append(content)
            report.kept.append(content)
    report.lines_count = 0 if reached is None else len(reached.pairs)
    return report


def _numbers(count: int | None) -> Iterable[int]:
    number = 0
    while count is None or number < count:
        yield number
        number += 1


def _try(target: Target, content: bytes, report: Report, reached: "_Reached | None") -> bool:
    """Check an input; whether it went where none before has gone."""
    if reached is None:
        try_one(target, content, report)
        return False
    before_count = len(reached.pairs)
    with reached:
        try_one(target, content, report)
    return len(reached.pairs) > before_count


class _Reached:
    """The pairs of lines, one after the other, that were run in some files."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._modules = tuple(modules)
        self._is_watched: dict[str, bool] = {}
        self.pairs: set[tuple[str, int, int]] = set()

    def __enter__(self) -> None:
        sys.settrace(self._enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        path = frame.f_code.co_filename
        watched = self._is_watched.get(path)
        if watched is None:
            watched = self._is_watched[path] = path.endswith(self._modules)
        if not watched:
            return None
        last_line = frame.f_lineno

        def line(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last_line
            if event == "line":
                self.pairs.add((path, last_line, frame.f_lineno))
                last_line = frame.f_lineno
            return line

        return line
