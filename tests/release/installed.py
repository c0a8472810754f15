"""`python -m tests.release.installed`: run some tests with the package as it is published.

An sdist is built from this checkout, a wheel from the sdist, and the wheel is installed into a new
environment. There the layout test runs, tests of a real server, the walk of an operator through a
server's life (`walk.py`), and one of function tasks on a real node; none of them sees the
checkout's own code (the option `--installed` holds them to that).
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.helpers.repository import ROOT

from .package import build, install

NEEDED: Final = ("pytest", "pytest-trio", "pyyaml", "trustme")
TESTS: Final = (
    "tests/test_layout.py",
    "tests/release/test_server.py",
    "tests/release/walk.py",
    "tests/http/web/test_ui_files.py::test_wheel_has_ui",
    "tests/node/test_with_server.py::test_functions_run_from_upload_to_result",
)


def main() -> int:
    """Build, install, test; return the status of the tests."""
    with tempfile.TemporaryDirectory(prefix="troth-installed-") as directory:
        built = build(Path(directory) / "dist")
        python = install(built.wheel, Path(directory) / "environment", *NEEDED)
        print(f"-- tests with {built.wheel.name}, installed", flush=True)
        # The tests are the checkout's; the code must not be.
        command = (python, "-m", "pytest", "-q", "--installed", "-o", "pythonpath=.")
        return subprocess.run([*command, *TESTS, *sys.argv[1:]], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
