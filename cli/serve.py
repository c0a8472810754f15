"""`troth serve`: reads the settings, in groups that belong together, and runs the server.

Every setting of `settings.Settings` is an option here. This module only decides under which heading
the help text shows it; a setting that no heading names would be shown under "Other".
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn, cast

import click

from troth.http.settings.settings import Settings
from troth.http.settings.sources import settings_options

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "General": ("config", "help"),
    "Storage": (
        "data",
        "in_memory",
        "log",
        "nats_monitor",
        "replicas",
        "unsafe_fsync",
        "node",
        "shards",
        "segment_bytes",
        "processes",
        "convert",
        "checkpoint_interval_ms",
        "checkpoint_log_bytes",
    ),
    "Cluster": (
        "cluster",
        "mesh_listen",
        "cluster_secret_file",
        "mesh_tls_cert",
        "mesh_tls_key",
        "mesh_tls_ca",
    ),
    "Retention": ("retain", "retention_interval_ms"),
    "Snapshots and archive": (
        "snapshot_directory",
        "snapshot_schedule",
        "snapshot_keep_count",
        "archive_directory",
        "archive_keep_ms",
    ),
    "Addresses and access": (
        "listen",
        "poll_listen",
        "url",
        "hosts",
        "allow_anonymous",
        "basic_auth",
        "failed_attempts_limit_count",
        "ui",
        "cors_allow_origin",
    ),
    "Log and metrics": ("log_level", "log_format", "log_requests", "metrics_per_shard"),
    "Traces": ("trace_tags", "trace_ids", "trace_url"),
    "Tasks and schedules": (
        "task_claim_timeout_ms",
        "workflow_retry_ms",
        "task_retry_first_ms",
        "task_retry_limit_ms",
        "get_claim_ttl_ms",
        "schedule_catch_up",
        "time_zone",
    ),
    "Tests of clients": ("debug_operations",),
    "Functions": (
        "task_wait_limit_ms",
        "function_queue_limit_count",
        "function_calls_concurrency_count",
        "function_calls_per_host_count",
        "function_private_networks",
        "build_limit_bytes",
    ),
    "Sending messages to workers": (
        "targets",
        "poll_connections_limit_count",
        "poll_buffer_limit_count",
        "poll_keep_alive_ms",
        "poll_stream_limit_ms",
        "push_timeout_ms",
        "push_private_networks",
        "push_concurrency_per_target_count",
        "push_concurrency_count",
        "target_queue_limit_count",
    ),
    "Limits of requests": (
        "body_limit_bytes",
        "in_flight_limit_bytes",
        "request_headers_limit_bytes",
        "id_limit_bytes",
        "tags_limit_count",
        "tag_limit_bytes",
        "value_headers_limit_count",
        "value_header_limit_bytes",
        "mailbox_limit_count",
    ),
    "Limits of connections": (
        "hot_lane",
        "connection_limit_count",
        "connections_per_address_limit_count",
        "header_timeout_ms",
        "body_timeout_ms",
        "keep_alive_timeout_ms",
        "event_streams_limit_count",
        "shutdown_timeout_ms",
    ),
}
"""The headings of the help text, each with its settings by name."""

OTHER: Final = "Other"

CLIENT_VARIABLES: Final = (
    *("TROTH_SERVER", "TROTH_TOKEN", "TROTH_USER", "TROTH_PASSWORD"),
    *("TROTH_CA_FILE", "TROTH_TRACEBACK", "TROTH_LOCK_RESOURCE", "TROTH_LOCK_TOKEN"),
)
"""What the commands that talk to a server read from the environment; see `client.py`."""


SEAT_VARIABLE: Final = "TROTH_SEAT"
"""Set for a process that a supervisor starts; see `http/supervision/seat.py`."""

LEFT_OUT: Final = ("rich", "pygments", "h2", "colorama")
"""What libraries of the server load if it is there: structlog for tracebacks in color, httpx for a
command of its own, httpcore for HTTP/2. A server uses none of it."""


@contextmanager
def leaving_out(*names: str) -> Iterator[None]:
    """Import in this block as if these modules were not installed, but those that are loaded.

    Afterwards they can be imported. Libraries that were imported in the block do without for good.
    """
    modules = cast("dict[str, object]", sys.modules)
    missing = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(missing))  # None: the import fails
    try:
        yield
    finally:
        for name in missing:
            del modules[name]


class SectionedCommand(click.Command):
    """A command whose help lists its options under `SECTIONS`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the server without the variables that are meant for the client commands.

        A user who exported them for `troth promises` must not be told that they are not settings.
        """
        for variable in CLIENT_VARIABLES:
            os.environ.pop(variable, None)
        if SEAT_VARIABLE in os.environ:
            # Only here: for `--help` even sockets take too long to load.
            with leaving_out(*LEFT_OUT):
                from troth.http.supervision import seat

            try:
                ctx.obj = seat.take()
            except seat.SeatRefused as error:
                raise click.UsageError(str(error)) from error
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one heading after the other."""
        section_of = {name: title for title, names in SECTIONS.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in (*SECTIONS, OTHER)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                # click's name for --help differs from version to version.
                name = "help" if "--help" in parameter.opts else parameter.name or ""
                rows[section_of.get(name, OTHER)].append(record)
        for title, entries in rows.items():
            if entries:
                with formatter.section(title):
                    formatter.write_dl(entries, col_max=26)


@click.command("serve", cls=SectionedCommand)
@settings_options
@click.pass_context
def serve_command(context: click.Context, settings: Settings) -> None:
    """Run the server until it is stopped (Ctrl-C or SIGTERM).

    The server keeps durable promises: values that will be known later, which programs create,
    complete and wait for over HTTP, and which survive crashes of all of them. It only needs
    a directory. Without any option it listens on this machine only, port 8001.

    Every option can also be set in a TOML file, by its name with underscores, or in the
    environment, in capitals after TROTH_ (--log-level: log_level, TROTH_LOG_LEVEL). An option
    overrides the environment, and the environment overrides the file.

    \b
    Examples:
      troth serve --data /var/lib/troth
      troth serve --in-memory --log-level debug
      troth serve --config troth.toml --listen 0.0.0.0:8001
    """
    # Only here: no other command needs the server's libraries.
    with leaving_out(*LEFT_OUT):
        is_several = settings.processes != 1 or settings.cluster is not None
        if context.obj is None and (is_several or settings.convert):
            from .supervising.converting import converted
            from .supervising.start import cluster_count, supervise, wanted_count

            now_ms = time.time_ns() // 1_000_000
            if settings.cluster is None:
                count = wanted_count(settings)
            else:
                count = cluster_count(settings) or context.exit(1)
            if settings.convert and not converted(settings, count, now_ms=now_ms):
                context.exit(1)
            if count > 1:
                context.exit(supervise(settings, count, now_ms=now_ms))
        from troth.http.serve import serve
        from troth.http.supervision.seat import SeatRefused, SupervisorGone

    try:
        status = serve(settings, control=context.obj)
        if context.obj is not None:
            _end(status)
        context.exit(status)
    except SupervisorGone:
        context.exit(1)
    except SeatRefused as error:
        raise click.UsageError(str(error)) from error


def _end(status: int) -> NoReturn:
    """End this process of several, which has nothing left to do.

    The next one of its seat waits for that. The interpreter would first give back all of the
    group's memory, one object after the other.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: it is closed
            with contextlib.suppress(OSError, ValueError):  # no one reads it any more
                stream.flush()
    os._exit(status)
