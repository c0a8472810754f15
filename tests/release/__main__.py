"""`python -m tests.release`: say what keeps this commit from being released.

The status is 0 if there is nothing. The sdist and the wheel that it judged are left in `dist/`.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.helpers.repository import ROOT
from troth import __version__

from .checks import changelog_faults, project_faults, said_faults, tree_faults, version_faults
from .package import build, install, tracked_files, wheel_faults


def git(*arguments: str) -> str:
    """Return what git prints."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def package_faults() -> list[str]:
    """Build both files into `dist/`; judge the wheel, and the command that it installs."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    built = build(ROOT / "dist")
    with tempfile.TemporaryDirectory(prefix="troth-release-") as directory:
        python = install(built.wheel, Path(directory) / "environment")
        said = subprocess.run(
            [python.with_name("troth"), "--version"], capture_output=True, text=True, check=False
        )
    return [
        *wheel_faults(built.wheel, tracked_files(ROOT)),
        *said_faults(said.stdout + said.stderr, __version__),
    ]


def main() -> int:
    """Print each fault in a line."""
    tagged_here = git("tag", "--points-at", "HEAD").split()
    faults = [
        *tree_faults(git("status", "--porcelain")),
        *version_faults(__version__, set(git("tag").split()) - set(tagged_here)),
        *changelog_faults((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), __version__),
        *project_faults(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]),
        *package_faults(),
    ]
    for fault in faults:
        print(f"- {fault}")
    print(f"Troth {__version__} " + ("cannot be released yet." if faults else "can be released."))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
