"""What an examination finds: each finding says what was looked at, how it is, and what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Soundness(StrEnum):
    """How something is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing needs to be done."""

    WARNING = "warning"
    """It works, but will be slow, or fail under load, or after a crash of the machine."""

    FAILURE = "failure"
    """The server would not start, or would lose what it should keep."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` is empty where there is nothing to do."""

    subject: str
    verdict: Soundness
    found: str
    advice: str = ""


Examination = Callable[[], Iterator[Finding]]
"""Looks at one subject."""


def ok(subject: str, found: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(subject, Soundness.OK, found)


def note(subject: str, found: str, advice: str = "") -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(subject, Soundness.NOTE, found, advice)


def warning(subject: str, found: str, advice: str) -> Finding:
    """Return a finding that an operator should act on."""
    return Finding(subject, Soundness.WARNING, found, advice)


def failure(subject: str, found: str, advice: str) -> Finding:
    """Return a finding that keeps a server from working."""
    return Finding(subject, Soundness.FAILURE, found, advice)
