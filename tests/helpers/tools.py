"""Programs that tests need and pip does not install: `.ci/packages` names Debian's packages."""

import os
import shutil
from typing import Final

import pytest

SYSTEM_PATHS: Final = ("/usr/sbin", "/sbin", "/usr/local/sbin")
"""Where servers lie; a user's PATH often lacks them."""


def tool(name: str, package: str) -> str:
    """Return the path of a program; without it, fail in CI, and elsewhere say what to install."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *SYSTEM_PATHS))
    found = shutil.which(name, path=path)
    if found is None:
        text = f"this test needs {name}: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(f"{text} (.ci/run installs what .ci/packages lists)")
        pytest.skip(text)
    return found


def root_needed(what_for: str) -> None:
    """Fail in CI, and elsewhere pass a test over, unless root runs it."""
    if os.geteuid() != 0:
        text = f"this test needs root to {what_for}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
