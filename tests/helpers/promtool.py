"""Prometheus's own checker of metrics and rules, of the package `prometheus`."""

import shutil
import subprocess
from pathlib import Path


def promtool() -> str:
    """Where it is; without it the tests that want it fail."""
    found = shutil.which("promtool")
    assert found is not None, "promtool is missing: apt-get install prometheus"
    return found


def findings(text: bytes) -> list[str]:
    """What it finds wrong with the text of a scrape."""
    done = subprocess.run(
        [promtool(), "check", "metrics"], input=text, capture_output=True, check=False
    )
    return (done.stdout + done.stderr).decode().splitlines()


def rules_problem(*arguments: str | Path) -> str:
    """What it says of rules, or of their tests; nothing if they are good."""
    done = subprocess.run([promtool(), *arguments], capture_output=True, check=False, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr
