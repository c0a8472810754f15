"""`troth node`: runs functions for a server on this machine."""

import os
import sys
from pathlib import Path
from typing import Final

import click
import trio

from troth.core import limits

from .connection.addresses import DEFAULT_SERVER
from .options import DURATION, ca_file_option

_FAILED_STATUS: Final = 1


@click.command("node")
@click.option(
    "--server",
    envvar="TROTH_SERVER",
    default=DEFAULT_SERVER,
    show_default=True,
    metavar="URL",
    help="The server's API address [environment: TROTH_SERVER].",
)
@click.option(
    "--token",
    envvar="TROTH_TOKEN",
    required=True,
    metavar="TEXT",
    help="A token with the scope `node`. Others can read command lines, so prefer the environment "
    "[TROTH_TOKEN].",
)
@ca_file_option
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    default=Path("troth-node"),
    show_default=True,
    metavar="DIR",
    help="Where the node keeps its id, fetched code and running tasks; each node needs its own.",
)
@click.option("--description", default="", metavar="TEXT", help="Name shown in the list of nodes.")
@click.option(
    "--slots",
    "slots_count",
    type=click.IntRange(1, limits.NODE_SLOTS_LIMIT_COUNT),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="How many tasks may run at the same time.",
)
@click.option(
    "--cpu",
    "cpu_count",
    type=click.IntRange(1, 1024),
    default=os.cpu_count() or 1,
    metavar="NUMBER",
    show_default="all",
    help="Processors a task may request, and the default.",
)
@click.option(
    "--memory",
    "memory_mb",
    type=click.IntRange(32, limits.FUNCTION_MEMORY_LIMIT_MB),
    default=512,
    show_default=True,
    metavar="MB",
    help="Memory a task may request, and the default limit.",
)
@click.option(
    "--latency",
    "latency_ms",
    type=click.IntRange(0, limits.FUNCTION_LATENCY_LIMIT_MS),
    default=0,
    show_default=True,
    metavar="MS",
    help="Network latency from here, for functions that require a low one.",
)
@click.option("--privileged", is_flag=True, help="Offer this node to privileged functions.")
@click.option(
    "--shared",
    is_flag=True,
    help="Run the functions of all accounts, not only of the token's own; needs the scope `admin`.",
)
@click.option(
    "--grace",
    "grace_ms",
    type=DURATION,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long running tasks may take to end after SIGTERM before they are returned.",
)
@click.option(
    "--uid-base",
    type=click.IntRange(1_000, 2_000_000_000),
    default=700_000,
    show_default=True,
    metavar="NUMBER",
    help="If started by root: the first of the 1000 user and group ids that tasks run as.",
)
@click.option(
    "--trust-functions",
    "trusts_functions",
    is_flag=True,
    help="Start even if functions can read a server's key (same user as the server).",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    help="Minimum level of messages to log.",
)
@click.option(
    "--log-format",
    type=click.Choice(("console", "json")),
    default="console",
    show_default=True,
    help="Log format: readable text or JSON.",
)
@click.pass_context
def node_command(
    context: click.Context,
    server: str,
    token: str,
    ca_file: Path | None,
    directory: Path,
    description: str,
    slots_count: int,
    cpu_count: int,
    memory_mb: int,
    latency_ms: int,
    privileged: bool,
    shared: bool,
    grace_ms: int,
    uid_base: int,
    trusts_functions: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Run functions for a server on this machine.

    It runs until stopped by Ctrl-C or SIGTERM.

    Each task runs as a separate process, with limits, in an empty directory. If the node is
    started by root, each task has its own user, which is the safest: tasks see neither each other
    nor the node's token, but share its kernel and network. A node refuses to start as a user who
    also runs a server: functions could read that server's key and act as any account. JavaScript
    functions need Node.js.

    \b
    Examples:
      troth node --slots 4 --memory 1024 --directory /var/lib/troth-node
      troth node --server http://10.0.0.1:8001
    """
    # Only here: no other command needs them.
    from troth.http.log_output import configure_logging
    from troth.http.supervision.manager_environment import HandedOverRefused
    from troth.http.supervision.service_manager import taken
    from troth.node.agent import NodeOptions, run_node
    from troth.node.errors import NodeError

    configure_logging(log_level, log_format)
    options = NodeOptions(
        server=server,
        token=token,
        directory=directory.absolute(),
        description=description,
        slots_count=slots_count,
        cpu_count=cpu_count,
        memory_mb=memory_mb,
        latency_ms=latency_ms,
        privileged=privileged,
        shared=shared,
        grace_s=grace_ms / 1000,
        uid_base=uid_base,
        trusts_functions=trusts_functions,
        ca_file=ca_file,
    )
    problem: BaseException | None = None
    try:
        trio.run(run_node, options, taken(), strict_exception_groups=True)
    except* (NodeError, HandedOverRefused) as group:
        problem = group
        while isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
    if problem is not None:
        print(f"troth: {problem}", file=sys.stderr)
        context.exit(_FAILED_STATUS)
