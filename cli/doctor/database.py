"""What `troth doctor` says of the database that keeps the log, if one does, or of NATS."""

import time
from collections.abc import Iterator
from statistics import median
from typing import Final

from troth.core.limits import STREAM_SKEW_LIMIT_MS
from troth.http.settings.log_kinds import NATS_SCHEMES
from troth.http.settings.settings import Settings
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable

from .findings import Finding, failure, note, ok, warning

ASKED_COUNT: Final = 20
"""How many questions the time of an answer is measured with."""

SLOW_ANSWER_MS: Final = 10.0
OLD_SNAPSHOT_S: Final = 3 * 3600

_SHOWN: Final = """
    SELECT
        (SELECT max(epoch) FROM troth_owner),
        (SELECT extract(epoch FROM now() - min(made)) FROM troth_snapshot),
        (SELECT string_agg(DISTINCT node, ', ' ORDER BY node) FROM troth_reader
            WHERE seen > now() - interval '5 minutes'),
        (SELECT sum(pg_total_relation_size(oid)) FROM pg_class
            WHERE relname ~ '^troth_(log|snapshot)_[0-9]+_[0-9]$' AND relkind = 'r'),
        (SELECT count(*) FROM troth_owner)
"""


def examine_database(settings: Settings) -> Iterator[Finding]:
    """Say whether what keeps the log can be used, how fast it answers, and what it has."""
    if settings.log is None:
        return
    if settings.log.startswith(NATS_SCHEMES):
        yield from _examine_nats(settings, settings.log)
        return
    try:
        from troth.persistence.streams.postgres_connection import PostgresConnection, QueryFailed
    except ImportError:
        advice = "pip install 'troth[postgres]'"
        yield failure("database", "PostgreSQL's client is not installed", advice)
        return
    try:
        connection = PostgresConnection(settings.log, {})
        connection.query("SELECT 1")
    except StreamRefused as error:
        yield failure("database", str(error), "the server would not start")
        return
    except StreamUnreachable as error:
        found = f"{connection.name} cannot be reached: {error}"
        yield failure("database", found, "check the address, the network and the database")
        return
    try:
        durations_ms = []
        for _ in range(ASKED_COUNT):
            begun_s = time.perf_counter()
            connection.query("SELECT 1")
            durations_ms.append((time.perf_counter() - begun_s) * 1000)
        found = f"{connection.name} answers in {median(durations_ms):.2f} ms"
        if median(durations_ms) > SLOW_ANSWER_MS:
            advice = "each write waits for that, and for its disks: have it closer"
            yield warning("database", found, advice)
        else:
            yield ok("database", found)
        if not connection.has_standby:
            yield warning(
                "standby of the database",
                "commits wait for no other machine",
                "what is acknowledged is on one machine: set synchronous_standby_names",
            )
        now_s = float(connection.query("SELECT extract(epoch FROM now())").get_value(0, 0) or 0)
        if abs(now_s - time.time()) * 1000 > STREAM_SKEW_LIMIT_MS:
            yield warning(
                "clock of the database",
                f"it differs by {now_s - time.time():+.1f} s from this machine's",
                "after a takeover timers may be off: synchronize the clocks of all machines",
            )
        shown = connection.query(_SHOWN)
        yield from _examine_log([(shown.get_value(0, n) or b"").decode() for n in range(5)])
    except QueryFailed:
        yield note("log", "the database has no log yet: the server makes it when it starts")
    except StreamUnreachable as error:
        yield failure("database", f"it no longer answers: {error}", "look at its log")
    finally:
        connection.close()


def _examine_nats(settings: Settings, url: str) -> Iterator[Finding]:
    try:
        from .nats import examine_nats
    except ImportError:
        yield failure("NATS", "NATS's client is not installed", "pip install 'troth[nats]'")
        return
    yield from examine_nats(settings, url)


def _examine_log(shown: list[str]) -> Iterator[Finding]:
    epoch, age_s, nodes, size_bytes, groups = shown
    size = f"{int(size_bytes or 0) / 1e6:.0f} MB"
    of_groups = f" of {groups} groups" if groups not in ("", "0", "1") else ""
    owners = f"{epoch or 0} owners so far"
    found = f"{size} of log and snapshots{of_groups}; {owners}; in use by {nodes or 'none'}"
    if age_s and float(age_s) > OLD_SNAPSHOT_S:
        yield warning(
            "log",
            f"{found}; the newest snapshot's mark is {float(age_s) / 3600:.0f} h old",
            "if a server runs, its log says why it takes none; without one, nothing is wrong",
        )
    else:
        yield ok("log", found)
