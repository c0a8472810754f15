"""`python -m tests.release.pythons`: print the newest Python of this machine.

It looks along PATH and at the versions that pyenv keeps. A Python counts if it is a final release
and can make environments; each is asked, since a name says little (pyenv has a `python3.13` on
PATH also where it refuses to run). It needs nothing but the standard library.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

Version = tuple[int, int, int]

OLDEST: Final = (3, 11, 0)
ANSWER_TIMEOUT_S: Final = 60.0

_NAME: Final = re.compile(r"python3(\.\d+)?")
_QUESTION: Final = """
import ensurepip, sys, venv
assert sys.version_info.releaselevel == "final"
print(*sys.version_info[:3])
"""


def candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield whatever is named like a Python 3, along PATH and then among pyenv's versions."""
    for directory in environment.get("PATH", "").split(os.pathsep):
        if directory and Path(directory).is_dir():
            yield from (path for path in Path(directory).iterdir() if _NAME.fullmatch(path.name))
    pyenv = environment.get("PYENV_ROOT") or Path(environment.get("HOME", "/")) / ".pyenv"
    yield from Path(pyenv).glob("versions/*/bin/python3")


def version_of(python: Path) -> Version | None:
    """Return a Python's version, or None if it is not fit to run the tests."""
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _QUESTION],
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_S,
            check=True,
        ).stdout
        major, minor, micro = map(int, answer.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return major, minor, micro


def newest(environment: Mapping[str, str]) -> Path | None:
    """Return the newest Python that is fit, the first of equal ones; None if there is none."""
    best: Path | None = None
    best_version: Version = OLDEST
    for python in candidates(environment):
        version = version_of(python)
        if version and (version > best_version or (best is None and version == best_version)):
            best, best_version = python, version
    return best


def main() -> int:
    """Print the newest one."""
    found = newest(os.environ)
    if found is None:
        print("There is no Python 3.11 or newer that can make environments.", file=sys.stderr)
        return 1
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
