"""The package as it is published: built from this checkout, installed in a new environment."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from tests.helpers.repository import ROOT

CONSTRAINTS: Final = ROOT / "constraints.txt"


class Built(NamedTuple):
    """The two files that are published."""

    sdist: Path
    wheel: Path


def build(directory: Path) -> Built:
    """Build an sdist, and a wheel from nothing but that, into a directory without others."""
    run("-m", "hatchling", "build", "--target", "sdist", "--directory", str(directory))
    sdist = only(directory.glob("*.tar.gz"))
    run("-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(directory), str(sdist))
    return Built(sdist, only(directory.glob("*.whl")))


def install(wheel: Path, environment: Path, *more: str) -> Path:
    """Make an environment with a wheel and what else is asked for; return its Python."""
    # Without ensurepip, which not every Python has: the pip that is here installs into it.
    run("-m", "venv", "--clear", "--without-pip", str(environment))
    python = environment / "bin" / "python"
    run("-m", "pip", "--python", str(python), "install", str(wheel), *more)
    return python


def run(*arguments: str) -> None:
    """Run Python with arguments in the root; raise `CalledProcessError` if that fails."""
    environment = {
        **os.environ,
        # Told apart by pip from 25.3 on: what is installed, and what builds it.
        "PIP_CONSTRAINT": CONSTRAINTS.name,
        "PIP_BUILD_CONSTRAINT": CONSTRAINTS.name,
        "PIP_QUIET": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
    }
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True)


def only(paths: Iterable[Path]) -> Path:
    """Return the one path that there is."""
    (path,) = paths
    return path


def tracked_files(root: Path) -> set[str]:
    """Return what git tracks of the package in a checkout, by the names in a wheel."""
    names = set()
    for path in _tracked(root, "src/troth"):
        inside = PurePosixPath(path).relative_to("src")
        if (root / path).is_symlink():
            # A folder at the root, mounted by a link.
            folder = (root / path).resolve().name
            below = [PurePosixPath(one).relative_to(folder) for one in _tracked(root, folder)]
            names |= {str(inside / one) for one in below}
        else:
            names.add(str(inside))
    return names


def _tracked(root: Path, folder: str) -> list[str]:
    command = ["git", "ls-files", "-z", "--", folder]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return [path for path in found.split("\0") if path]


def wheel_faults(wheel: Path, expected: set[str]) -> list[str]:
    """Compare the files of a wheel with those that it should have, beside what describes it."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    information = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/"
    described = {name for name in names if name.startswith(information)}
    expected = expected | {
        information + name
        for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    return [
        *(f"the wheel lacks {name}" for name in sorted(expected - names)),
        *(f"the wheel has {name}, too" for name in sorted(names - expected - described)),
    ]
