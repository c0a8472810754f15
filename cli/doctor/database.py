"""What `troth doctor` says of the database that keeps the log, if one does, or of NATS."""

import time
from collections.abc import Iterator
from typing import Final

from troth.core.limits import STREAM_SKEW_LIMIT_MS
from troth.http.settings.log_kinds import NATS_SCHEMES
from troth.http.settings.settings import Settings
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable

from .findings import Finding, failure, note, warning
from .log_engines import differing_clock, examine_age, examine_answers

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
        yield examine_answers(
            "database",
            connection.name,
            lambda: connection.query("SELECT 1"),
            "each write waits for that, and for its disks: have it closer",
        )
        if not connection.has_standby:
            yield warning(
                "standby of the database",
                "commits wait for no other machine",
                "what is acknowledged is on one machine: set synchronous_standby_names",
            )
        now_s = float(connection.query("SELECT extract(epoch FROM now())").get_value(0, 0) or 0)
        if abs(now_s - time.time()) * 1000 > STREAM_SKEW_LIMIT_MS:
            yield differing_clock("clock of the database", now_s - time.time())
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
    yield examine_age(found, float(age_s) if age_s else None)
