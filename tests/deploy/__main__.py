"""`python -m tests.deploy`: carry out the Containerfile's steps in a clean Debian root, and run it.

`make deploy-check` calls it; it needs root, debootstrap, and a few minutes. What an engine would do
is done by hand: each stage is a copy of a root that debootstrap makes (Debian's own Python 3.11
stands for that of the base image), COPY copies, RUN runs in it. Then the image's command runs there
as process 1, as the image's user, without rights, on a read-only root with a volume; its health
check is asked; it is killed, started again, and stopped.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.helpers.repository import ROOT
from tests.helpers.server import http_json

from .containerfile import Stage, read

SUITE: Final = "bookworm"
PACKAGES: Final = "python3,python3-venv,ca-certificates"
# So that names resolve and certificates are trusted as on this machine.
FROM_THIS_MACHINE: Final = (
    *("etc/hosts", "etc/resolv.conf"),
    "etc/ssl/certs/ca-certificates.crt",
)
BASE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT_S: Final = 120.0

# What an engine sets up around a container's first process.
CONTAINER: Final = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount --bind "$VOLUME" "$ROOT$MOUNTED"
mount -o remount,bind,ro "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
mount -t tmpfs tmpfs "$ROOT/tmp"
exec chroot "$ROOT" setpriv --reuid="$ID" --regid="$ID" --clear-groups --no-new-privs \
  --inh-caps=-all --bounding-set=-all "$@"
"""


def say(text: str) -> None:
    """Print what is done."""
    print(f"-- {text}", flush=True)


def make_base(directory: Path) -> None:
    """Make a clean root of Debian."""
    say(f"debootstrap {SUITE} with {PACKAGES}")
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(directory)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def make_root(base: Path, root: Path) -> None:
    """Copy a root, and let it reach what this machine reaches."""
    subprocess.run(["cp", "-a", str(base), str(root)], check=True)
    for name in FROM_THIS_MACHINE:
        if (Path("/") / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path("/") / name, root / name)


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """Give a root what programs expect of a machine, for a block."""
    places = {"proc": ("-t", "proc", "proc"), "dev": ("--bind", "/dev")}
    done: list[Path] = []
    try:
        for name, what in places.items():
            subprocess.run(["mount", *what, str(root / name)], check=True)
            done.append(root / name)
        yield
    finally:
        for place in reversed(done):
            subprocess.run(["umount", str(place)], check=True)


def build(stage: Stage, root: Path, others: Mapping[str, Path]) -> None:
    """Carry out a stage's steps in a root that is a copy of its base."""
    where = "/"
    environment = {"PATH": BASE_PATH, **_for_pip()}
    for step in stage.steps:
        if step.instruction == "ENV":
            environment |= dict(word.split("=", 1) for word in step.words)
        elif step.instruction == "WORKDIR":
            where = step.text
            (root / where.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.instruction == "COPY":
            _copy(step.words, root / where.lstrip("/"), root, others)
        elif step.instruction == "RUN":
            say(f"RUN {step.text}")
            subprocess.run(
                ["chroot", str(root), "sh", "-c", f"cd {where} && {step.text}"],
                env=environment,
                check=True,
            )


def _for_pip() -> dict[str, str]:
    """Return how pip finds packages here: not part of the image, since an engine has its own."""
    kept = {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
    kept.pop("PIP_FIND_LINKS", None)  # a directory of this machine
    return {**kept, "PIP_ROOT_USER_ACTION": "ignore"}


def _copy(words: Sequence[str], here: Path, root: Path, others: Mapping[str, Path]) -> None:
    source_root = ROOT
    if words[0].startswith("--from="):
        source_root, words = others[words[0].partition("=")[2]], words[1:]
    *sources, target = words
    place = root / target.lstrip("/") if target.startswith("/") else here / target
    for source in sources:
        found = source_root / source.lstrip("/")
        if found.is_dir():
            ignored = shutil.ignore_patterns("__pycache__") if source_root == ROOT else None
            shutil.copytree(found, place, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(found, place / found.name if place.is_dir() else place)


@contextmanager
def container(
    stage: Stage, root: Path, volume: Path, log: Path, *command: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as an engine would run the image."""
    environment = {
        "PATH": BASE_PATH,
        **stage.environment,
        "TROTH_ALLOW_ANONYMOUS": "true",
        "TROTH_LISTEN": "127.0.0.1:18001",
        "TROTH_POLL_LISTEN": "none",
        "TROTH_SERVER": "http://127.0.0.1:18001",
        "ROOT": str(root),
        "VOLUME": str(volume),
        "MOUNTED": stage.last("VOLUME").text,
        "ID": stage.last("USER").text.partition(":")[0],
    }
    # `chroot` looks for the program in the new root by this PATH.
    environment["PATH"] = f"{stage.environment['PATH']}:{BASE_PATH}"
    arguments = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "bash", "-c", CONTAINER]
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [*arguments, "bash", *command], env=environment, stdout=output, stderr=output
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def inner(process: subprocess.Popen[bytes]) -> int:
    """Return the process outside whose child is process 1 inside."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def _ready_count(log: Path) -> int:
    lines = log.read_text().splitlines() if log.exists() else []
    return sum(json.loads(line).get("event") == "ready" for line in lines if line[:1] == "{")


def wait_until_ready(process: subprocess.Popen[bytes], log: Path, before_count: int) -> None:
    """Wait until the server says that it is ready, for one more time than before."""
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if _ready_count(log) > before_count:
            return
        time.sleep(0.1)
    raise SystemExit(f"the image's server does not start:\n{log.read_text()}")


def run(stage: Stage, root: Path, directory: Path) -> None:
    """Start the image's server, ask its health check, kill it, start it again, stop it."""
    volume, log = directory / "volume", directory / "log"
    volume.mkdir()
    shutil.copystat(root / stage.last("VOLUME").text.lstrip("/"), volume)
    owner = int(stage.last("USER").text.partition(":")[0])
    os.chown(volume, owner, owner)
    command = (*stage.last("ENTRYPOINT").words, *stage.last("CMD").words)
    health = json.loads(stage.last("HEALTHCHECK").text.partition("CMD ")[2])
    url = "http://127.0.0.1:18001"
    with container(stage, root, volume, log, *command) as process:
        wait_until_ready(process, log, 0)
        status, _ = http_json("POST", f"{url}/promises", {"id": "kept", "timeout": 4102444800000})
        assert status == 201, status
        with container(stage, root, volume, directory / "health", *health) as check:
            assert check.wait(TIMEOUT_S) == 0, (directory / "health").read_text()
        say((directory / "health").read_text().strip())
        os.kill(inner(process), signal.SIGKILL)
        process.wait(TIMEOUT_S)
    with container(stage, root, volume, log, *command) as process:
        wait_until_ready(process, log, 1)
        assert http_json("GET", f"{url}/promises/kept")[0] == 200, "it outlives kill -9"
        os.kill(inner(process), signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0, "it obeys SIGTERM as process 1"
    with container(stage, root, volume, directory / "health", *health) as check:
        assert check.wait(TIMEOUT_S) != 0, "the health check notices that it is gone"


def main() -> int:
    """Make the image's root and run it."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.deploy")
    parser.add_argument("--base", type=Path, help="a root that debootstrap has made, to be copied")
    base: Path | None = parser.parse_args().base
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print("This needs root, and debootstrap (apt-get install debootstrap).", file=sys.stderr)
        return 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="troth-deploy-") as temporary:
        directory = Path(temporary)
        if base is None:
            base = directory / "base"
            make_base(base)
        roots: dict[str, Path] = {}
        found = read(ROOT / "deploy" / "Containerfile")
        for stage in found:
            root = directory / (stage.name or "image")
            make_root(base, root)
            with mounted(root):
                build(stage, root, roots)
            roots[stage.name] = root
        run(found[-1], roots[""], directory)
    say(f"the Containerfile's steps make a server that runs: {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
