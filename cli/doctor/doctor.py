"""`troth doctor`: looks at where a server runs or is to run, and says what to do, line by line."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from troth.cli.output import emit, visible
from troth.cli.serve import CLIENT_VARIABLES
from troth.http.settings.settings import Settings
from troth.http.settings.sources import SettingsError, load

from .database import examine_database
from .disk import examine_directory, examine_disk
from .findings import Finding, Soundness, failure
from .machine import (
    examine_clock,
    examine_descriptors,
    examine_memory,
    examine_user,
    examine_versions,
)
from .network import examine_access, examine_ports, examine_proxies
from .processes import examine_processes

EXAMINATIONS: Final[tuple[Callable[[Settings], Iterator[Finding]], ...]] = (
    examine_versions,
    examine_user,
    examine_directory,
    examine_processes,
    examine_database,
    examine_disk,
    examine_descriptors,
    examine_memory,
    examine_clock,
    examine_ports,
    examine_access,
    examine_proxies,
)
"""In the order of the lines."""

FAILED_STATUS: Final = 1
_COLORS: Final = {Soundness.OK: "green", Soundness.WARNING: "yellow", Soundness.FAILURE: "red"}
_WIDTH_COUNT: Final = max(len(verdict) for verdict in Soundness)


@click.command("doctor")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help="The server's data directory."
)
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="The server's TOML file."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on one line.")
@click.pass_context
def doctor(context: click.Context, data: Path | None, config: Path | None, as_json: bool) -> None:
    """Look at where a server runs or is to run, and say what to do.

    It looks at the directory and the disk (how fast, and how honest), open files, memory, the
    clock, versions, ports, the database or NATS that keeps the log, and what stands between
    clients and the server, with the settings that `troth serve` would have in this environment. It
    changes nothing, but writes to the disk for a second to measure it. Run it as the server's user.
    The exit status is 1 if there is a failure.

    \b
    Examples:
      troth doctor
      sudo -u troth troth doctor --data /var/lib/troth
    """
    findings = list(examined(data, config))
    if as_json:
        rows = [
            {
                "subject": one.subject,
                "verdict": one.verdict.value,
                "found": one.found,
                "advice": one.advice,
            }
            for one in findings
        ]
        emit(json.dumps({"findings": rows}, separators=(",", ":")))
    else:
        for one in findings:
            emit(_line(one))
    if any(one.verdict is Soundness.FAILURE for one in findings):
        context.exit(FAILED_STATUS)


def examined(data: Path | None, config: Path | None) -> Iterator[Finding]:
    """Yield what is found, subject by subject."""
    environment = {name: text for name, text in os.environ.items() if name not in CLIENT_VARIABLES}
    flags = {"data": None if data is None else str(data)}
    try:
        settings = load(config, environment, flags)
    except SettingsError as error:
        yield failure("settings", str(error), "`troth serve` would say the same, and not start")
        try:
            # What else can be looked at does not depend on who may connect.
            settings = load(config, environment, {**flags, "allow_anonymous": True})
        except SettingsError:
            return
    for examine in EXAMINATIONS:
        yield from examine(settings)


def _line(finding: Finding) -> str:
    word = click.style(f"{finding.verdict:<{_WIDTH_COUNT}}", fg=_COLORS.get(finding.verdict))
    text = f"{word}  {finding.subject}: {visible(finding.found)}"
    if finding.advice:
        text += f"\n{'':{_WIDTH_COUNT}}  -> {visible(finding.advice)}"
    return text
