"""Checks the types of `http/ui/`, or makes its vendored file again.

`python -m tests.ui.tools types` runs the TypeScript compiler over the JSDoc of all modules, and
compares each module with what is served of it: without comments and spaces both must be the same.
`python -m tests.ui.tools vendor` bundles Preact and htm into `http/ui/vendor/preact.js` and writes
its SHA-256 into the README next to it.

Both need npm, which is used for nothing else. Without it, `types` says so and succeeds, except in
continuous integration. What npm installs goes to `.ui-tools/`, by the lock file of this folder.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.helpers.repository import ROOT
from troth.http.web.ui_files import served

HERE: Final = Path(__file__).parent
INSTALLED: Final = ROOT / ".ui-tools"
UI: Final = ROOT / "http" / "ui"
VENDOR: Final = UI / "vendor"
BANNER: Final = (
    "/* Preact (MIT) and htm (Apache-2.0): README.md says which, and how this is made. */"
)
INSTALL_LIMIT_S: Final = 300
RUN_LIMIT_S: Final = 120


def main(arguments: list[str]) -> int:
    """Run one of the two commands and return the status to exit with."""
    if arguments not in (["types"], ["vendor"]):
        print("usage: python -m tests.ui.tools types|vendor", file=sys.stderr)
        return 2
    if shutil.which("npm") is None:
        print("The types of http/ui/ are not checked: that needs npm (Node.js 20 or newer).")
        return 1 if arguments == ["vendor"] or "CI" in os.environ else 0
    install()
    if arguments == ["vendor"]:
        return make_vendored_file()
    return check_types() or check_served()


def install() -> None:
    """Install what the lock file names, unless that has been done."""
    lock = (HERE / "package-lock.json").read_bytes()
    done = INSTALLED / "package-lock.json"
    if (INSTALLED / "node_modules").is_dir() and done.exists() and done.read_bytes() == lock:
        return
    shutil.rmtree(INSTALLED, ignore_errors=True)
    INSTALLED.mkdir()
    shutil.copy(HERE / "package.json", INSTALLED)
    done.write_bytes(lock)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    try:
        subprocess.run(command, cwd=INSTALLED, check=True, timeout=INSTALL_LIMIT_S)
    except BaseException:
        shutil.rmtree(INSTALLED)
        raise


def check_types() -> int:
    """Run the compiler and return its status."""
    compiler = INSTALLED / "node_modules" / ".bin" / "tsc"
    command = [str(compiler), "--project", str(HERE / "tsconfig.json")]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=RUN_LIMIT_S).returncode


def check_served() -> int:
    """Compare the modules with what is served of them, as esbuild reads both; return a status."""
    modules = sorted(path for path in UI.rglob("*.js") if path.parent != VENDOR)
    names = [path.relative_to(UI).as_posix() for path in modules]
    with tempfile.TemporaryDirectory() as directory:
        bare = Path(directory, "served")
        for path, name in zip(modules, names, strict=True):
            (bare / name).parent.mkdir(parents=True, exist_ok=True)
            (bare / name).write_bytes(served(path))
        one, other = (
            _without_spaces(folder, names, Path(directory, str(number)))
            for number, folder in enumerate((UI, bare))
        )
        differing = [name for name in names if one[name] != other[name]]
    if differing:
        print("What is served is not what was written:", *differing, file=sys.stderr)
    return 1 if differing else 0


def _without_spaces(folder: Path, names: list[str], target: Path) -> dict[str, bytes]:
    """Return modules as esbuild prints them, without what does not count."""
    esbuild = str(INSTALLED / "node_modules" / ".bin" / "esbuild")
    options = ["--minify-whitespace", "--legal-comments=none", "--log-level=error"]
    command = [esbuild, *names, *options, f"--outbase={folder}", f"--outdir={target}"]
    subprocess.run(command, cwd=folder, check=True, timeout=RUN_LIMIT_S)
    return {name: (target / name).read_bytes() for name in names}


def make_vendored_file() -> int:
    """Bundle the vendored file, write its digest into its README, and return 0."""
    entry = INSTALLED / "preact_entry.js"
    shutil.copy(HERE / entry.name, entry)
    made = VENDOR / "preact.js"
    command = [
        str(INSTALLED / "node_modules" / ".bin" / "esbuild"),
        str(entry),
        "--bundle",
        "--minify",
        "--format=esm",
        "--target=es2022",
        "--legal-comments=none",
        f"--banner:js={BANNER}",
        f"--outfile={made}",
    ]
    subprocess.run(command, cwd=INSTALLED, check=True, timeout=RUN_LIMIT_S)
    readme = VENDOR / "README.md"
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    text = readme.read_text(encoding="utf-8")
    readme.write_text(re.sub(r"\b[0-9a-f]{64}\b", digest, text), encoding="utf-8")
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size} bytes, SHA-256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
