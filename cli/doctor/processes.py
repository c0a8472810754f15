"""The processes of a server: how many there are to be, and how those are that run."""

import contextlib
from collections.abc import Iterator
from typing import Any

from troth.cli.supervising.restart import NoServer, asked
from troth.cli.supervising.start import cores_count, wanted_count
from troth.http.processes.refused_settings import refused_setting
from troth.http.settings.settings import Settings
from troth.persistence.conversion.old_data import read_identity
from troth.persistence.errors import PersistenceError
from troth.persistence.identity import FORMAT_VERSION

from .findings import Finding, failure, ok, warning


def examine_processes(settings: Settings) -> Iterator[Finding]:
    """Say how the processes of a running server are, or whether a new one could have so many."""
    try:
        (answer,) = asked(settings.data, {"ask": "processes"})
    except (NoServer, OSError, ValueError):
        yield from _fit(settings)  # none runs, or it has one process
    else:
        yield from map(_process, answer["processes"])
        spare = answer.get("spare")  # a supervisor of the version before has none
        if spare is not None:
            yield ok("spare process", f"pid {spare['pid']}, waits to replace one that ends")


def _fit(settings: Settings) -> Iterator[Finding]:
    count, cores = wanted_count(settings), cores_count()
    problem = refused_setting(settings) if count > 1 else None
    if problem is not None:
        yield failure("processes", problem, "serve with one process, or leave that out")
    with contextlib.suppress(PersistenceError):  # there is none yet, or others say what is wrong
        version, identity = read_identity(settings.data)
        is_other = version == FORMAT_VERSION and identity.groups_count != count
        if is_other and not settings.convert:
            yield failure(
                "processes",
                f"the directory is for {identity.groups_count}, but it is to be served by {count}",
                f"stop the server and run: troth data convert {settings.data} --groups {count}",
            )
    if count > cores:
        yield warning(
            "processes",
            f"{count} are to serve, but there are {cores} cores",
            "more processes than cores cost memory and gain nothing",
        )


def _process(one: dict[str, Any]) -> Finding:
    starts_count = one["starts"]
    times = "once" if starts_count == 1 else f"{starts_count} times"
    found = f"{one['stage']}, pid {one['pid']}, started {times}"
    if one.get("stands_by", False):  # a supervisor of the version before does not say
        text = f"stands by for another server of the cluster, pid {one['pid']}, started {times}"
        return ok(f"process {one['process']}", text)
    if not one["up"]:
        return failure(
            f"process {one['process']}",
            f"down: {found}",
            "look for its number in the server's log; it is started again automatically",
        )
    return ok(f"process {one['process']}", found)
