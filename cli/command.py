"""The `troth` command: finds the command by its name and ends with the right exit status.

Commands are imported only when they are asked for: those that talk to a server start without
loading one. The exit status says what happened: 0 success, 1 the server refused, 2 the command
line is wrong, 3 the server cannot be reached, 130 interrupted by Ctrl-C.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem

from troth import __version__

from .standard_streams import open_closed_streams

FAILED_STATUS: Final = 1
DEFECT_STATUS: Final = 70
"""What sysexits.h has for an error inside the program itself."""
TRACEBACK_VARIABLE: Final = "TROTH_TRACEBACK"

INTERRUPTED_STATUS: Final = 130
"""What shells expect of a program that Ctrl-C ended."""


class CommandPlace(NamedTuple):
    """Where a command is, as module:name, and what the list of all commands says about it."""

    place: str
    summary: str


COMMANDS: Final = {
    "serve": CommandPlace(
        "troth.cli.serve:serve_command",
        "Run the server until it is stopped (Ctrl-C or SIGTERM).",
    ),
    "restart": CommandPlace(
        "troth.cli.supervising.restart:restart_command",
        "Restart the processes of a server one after the other.",
    ),
    "dev": CommandPlace(
        "troth.cli.overview.open_ui:dev",
        "Run a server for development, in memory, and open its web UI.",
    ),
    "ui": CommandPlace(
        "troth.cli.overview.open_ui:ui",
        "Open the web UI of a running server in a browser.",
    ),
    "promises": CommandPlace(
        "troth.cli.promises:promises", "Create, show, complete and search promises."
    ),
    "tasks": CommandPlace("troth.cli.tasks:tasks", "List, claim, complete and return tasks."),
    "schedules": CommandPlace(
        "troth.cli.schedules:schedules", "Create promises on a schedule given by a cron expression."
    ),
    "locks": CommandPlace("troth.cli.locks:locks", "Acquire, release, renew and list locks."),
    "bulk": CommandPlace(
        "troth.cli.bulk.jobs:bulk", "Do one thing to everything that a filter finds."
    ),
    "tree": CommandPlace(
        "troth.cli.tree:tree", "Draw the promise ID and everything that its work has created."
    ),
    "why": CommandPlace("troth.cli.questions.why:why", "Say why the promise ID is still pending."),
    "timers": CommandPlace(
        "troth.cli.questions.timers:timers", "List what comes due next, in the order of time."
    ),
    "whoami": CommandPlace(
        "troth.cli.overview.whoami:whoami",
        "Show whose credentials these are and what they allow.",
    ),
    "health": CommandPlace(
        "troth.cli.overview.health:health",
        "Check whether a server is ready, by exit status.",
    ),
    "workers": CommandPlace(
        "troth.cli.overview.traffic:workers",
        "List connected workers and nodes, and what they hold.",
    ),
    "queues": CommandPlace(
        "troth.cli.overview.traffic:queues",
        "List the receivers of messages, and what waits for each.",
    ),
    "top": CommandPlace(
        "troth.cli.overview.top:top", "Watch a running server: what it does, and what waits."
    ),
    "failures": CommandPlace(
        "troth.cli.overview.failures:failures", "List what failed since the server started."
    ),
    "events": CommandPlace(
        "troth.cli.overview.events:events", "Print what changes on a server, until Ctrl-C."
    ),
    "settings": CommandPlace(
        "troth.cli.overview.settings:settings", "Show the settings of a running server."
    ),
    "cluster": CommandPlace(
        "troth.cli.clusters.cluster:cluster",
        "Make a cluster in PostgreSQL or NATS, or show one.",
    ),
    "account": CommandPlace(
        "troth.cli.accounts:account", "Create and disable accounts; show who changed what."
    ),
    "token": CommandPlace("troth.cli.tokens:token", "Create, list and revoke tokens."),
    "log": CommandPlace(
        "troth.cli.log:log", "Read, verify and repair the log of a data directory."
    ),
    "snapshot": CommandPlace("troth.cli.snapshots:snapshot", "Back up all data, and restore it."),
    "data": CommandPlace(
        "troth.cli.directories.data:data", "Inspect a data directory, convert or move it."
    ),
    "export": CommandPlace(
        "troth.cli.export_promises:export", "Write all promises and schedules to FILE."
    ),
    "import": CommandPlace(
        "troth.cli.import_promises:import_command", "Import a file that `troth export` wrote."
    ),
    "node": CommandPlace(
        "troth.cli.node:node_command", "Run functions for a server on this machine."
    ),
    "doctor": CommandPlace(
        "troth.cli.doctor.doctor:doctor",
        "Look at where a server runs or is to run, and say what to do.",
    ),
    "completion": CommandPlace(
        "troth.cli.shell.completion:completion",
        "Print what makes a shell complete commands.",
    ),
    "manual": CommandPlace(
        "troth.cli.shell.manual:manual_command", "Print the manual page of `troth`, in roff."
    ),
    "bench": CommandPlace(
        "troth.bench.command:bench", "Measure how fast a server is, and how fast it could be."
    ),
}
"""Every command, in the order of the help text. A summary is the first sentence of the command's
own help, repeated here so that `troth --help` need not import all of them."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the help text."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module_name, _, attribute = COMMANDS[cmd_name].place.partition(":")
        module = importlib.import_module(module_name)
        command = getattr(module, attribute)
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, without importing any, and options."""
        summaries = {name: command.summary for name, command in COMMANDS.items()}
        summaries |= {name: own.get_short_help_str() for name, own in self.commands.items()}
        return [
            *(
                CompletionItem(name, help=summary)
                for name, summary in summaries.items()
                if name.startswith(incomplete)
            ),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List all commands without importing any."""
        listed = [
            *(click.Command(name, help=command.summary) for name, command in COMMANDS.items()),
            *(self.commands[name] for name in super().list_commands(ctx)),
        ]
        names = [command.name or "" for command in listed]
        # What click keeps free of a line: the name, and spaces around it.
        limit = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, command.get_short_help_str(limit))
                    for name, command in zip(names, listed, strict=True)
                ]
            )


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="troth", message="%(prog)s %(version)s")
def troth() -> None:
    """Durable promises: values that programs wait for, kept safe by a server.

    `troth serve` runs the server. `troth log`, `troth snapshot` and `troth data` look after
    its files. All other commands talk to a
    running server over HTTP.

    \b
    Example, in two terminals:
      troth serve --data /var/lib/troth
      troth promises create order-7 --timeout 1h
      troth promises resolve order-7 --data "sent"

    \b
    Exit status: 0 done, 1 refused by the server, 2 wrong usage, 3 server not reachable,
    130 interrupted.
    """


@troth.command()
def version() -> None:
    """Print the version of this program.

    \b
    Example:
      troth version
    """
    click.echo(f"troth {__version__}")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (None: that of this process) and return its exit status.

    Nothing is raised: what went wrong is one message on standard error.
    """
    try:
        status = _run_and_flush(None if arguments is None else list(arguments))
    except click.Abort:
        # Ctrl-C, or Ctrl-D at a question: the user knows.
        return INTERRUPTED_STATUS
    except click.ClickException as error:
        return _failed(error.exit_code, error.format_message(), shown_by=error.show)
    except OSError as error:
        # What commands expect of files they say themselves; what is left is their own output.
        return _failed(FAILED_STATUS, f"the output cannot be written ({error.strerror or error}).")
    except Exception as error:
        is_daemon = (sys.argv[1:] if arguments is None else arguments)[:1] in (["serve"], ["node"])
        return _failed(DEFECT_STATUS, _defect(error, shows_traceback=is_daemon))
    # Commands return None; `Context.exit` makes click return a status.
    return status if isinstance(status, int) else 0


def _run_and_flush(arguments: list[str] | None) -> object:
    status = troth.main(arguments, prog_name="troth", standalone_mode=False)
    # Here, where its failure has words, and not when the interpreter ends. None: it is closed.
    if sys.stdout is not None:
        sys.stdout.flush()
    return status


def _failed(status: int, message: str, *, shown_by: Callable[[], None] | None = None) -> int:
    """Print what went wrong, if standard error is open, and return the status."""
    try:
        if shown_by is not None:
            shown_by()
        else:
            click.echo(f"Error: {message}", err=True)
    except OSError:
        # Standard error cannot be written either: the status alone has to say it.
        return status
    finally:
        _drop_output()
    return status


def _drop_output() -> None:
    """Drop what is still buffered for a standard output that takes nothing any more.

    The interpreter would try again when it ends, and complain.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def _defect(error: Exception, *, shows_traceback: bool) -> str:
    """Return what a user can do about a defect of ours.

    With the traceback where it was asked for, and where nothing will happen a second time.
    """
    if shows_traceback or os.environ.get(TRACEBACK_VARIABLE):
        return "this is a bug in Troth; please report it.\n" + "".join(
            traceback.format_exception(error)
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"this command has a bug ({reason}). Run it again with {TRACEBACK_VARIABLE}=1 and "
        "report what it prints."
    )


def main() -> NoReturn:
    """Be the `troth` command: run the process's command line and exit."""
    open_closed_streams()
    sys.exit(run())
