"""What keeps a commit from being released, judged by texts alone: each check returns its faults."""

import re
from collections.abc import Collection, Mapping
from datetime import date
from typing import Any, Final

WANTED_URLS: Final = frozenset({"Changelog", "Documentation", "Issues", "Source"})
"""Where a reader of PyPI goes on. Whoever publishes the package knows the addresses."""

_VERSION: Final = re.compile(r"\d+\.\d+\.\d+")
_HEADING: Final = re.compile(r"^## (.*)$", re.MULTILINE)


def tree_faults(status: str) -> list[str]:
    """Judge the output of `git status --porcelain`: what is not committed is not released."""
    return [f"not committed: {line[3:]}" for line in status.splitlines()]


def version_faults(version: str, earlier_tags: Collection[str]) -> list[str]:
    """Judge the version. `earlier_tags` are those of other commits."""
    if not _VERSION.fullmatch(version):
        return [f"the version {version} is not of the form X.Y.Z"]
    if f"v{version}" in earlier_tags:
        return [f"the version {version} is released: another commit has the tag v{version}"]
    return []


def changelog_faults(text: str, version: str) -> list[str]:
    """Judge the changelog: the version has a dated section, below an empty *Unreleased*."""
    _, *parts = _HEADING.split(text)
    headings, sections = parts[::2], parts[1::2]
    if headings[:1] != ["[Unreleased]"]:
        return ["CHANGELOG.md does not begin with a section [Unreleased]"]
    faults = []
    if sections[0].strip():
        faults.append("CHANGELOG.md has entries under [Unreleased]: give them to the version")
    name, _, day = headings[1].partition(" - ") if len(headings) > 1 else ("", "", "")
    if name != f"[{version}]":
        faults.append(f"CHANGELOG.md has no section [{version}] below [Unreleased]")
    elif not _is_day(day):
        faults.append(f"CHANGELOG.md does not date {version}: ## [{version}] - YYYY-MM-DD")
    elif not sections[1].strip():
        faults.append(f"CHANGELOG.md says nothing about {version}")
    return faults


def said_faults(said: str, version: str) -> list[str]:
    """Judge what the installed `troth --version` prints."""
    expected = f"troth {version}\n"
    return [] if said == expected else [f"troth --version says {said!r}, not {expected!r}"]


def project_faults(project: Mapping[str, Any]) -> list[str]:
    """Judge what PyPI shows of a package, the table `project` of pyproject.toml."""
    missing = sorted(WANTED_URLS - set(project.get("urls", {})))
    if missing:
        return [
            f"pyproject.toml has no [project.urls] for {', '.join(missing)}: say where they are"
        ]
    return []


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
