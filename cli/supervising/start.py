"""Starting a server of several processes: what they need is taken first, then they are started.

The ports come first, then the data directory: what cannot be served must not leave a directory.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import structlog

from troth.http.identity import operator_key
from troth.http.log_output import configure_logging, say_failed
from troth.http.processes.refused_settings import refused_setting
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.sockets.ports import (
    ListenError,
    Sockets,
    address_of,
    close_all,
    open_shared,
)
from troth.http.supervision.manager_environment import (
    HandedOverRefused,
    take_environment,
)
from troth.http.supervision.seat import descriptor_path
from troth.persistence.data_directory import RUN_NAME, lock_directory, open_identity
from troth.persistence.errors import DataDirectoryUnwritable, PersistenceError
from troth.persistence.files import DIRECTORY_MODE, FileLock, LockedDirectory, RealFiles

from .notices import TimedNotices
from .plan import ServerPlan
from .requests import SOCKET_PATH_LIMIT_BYTES
from .supervisor import EXIT_FAILED, Supervisor

SOCKET_NAME_LIMIT_BYTES: Final = 20
"""The longest name of a socket in the directory for running processes."""

_log = structlog.get_logger("troth.supervisor")


class MeshRefused(Exception):
    """What links to other nodes need cannot be used. `str()` is one line for an operator."""


def cores_count() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wanted_count(settings: Settings) -> int:
    """Return how many processes are to serve."""
    if settings.processes is not None:
        return settings.processes
    return min(cores_count(), settings.shards or cores_count())


def supervise(
    settings: Settings,
    processes_count: int,
    *,
    now_ms: int,
    command: Sequence[str] | None = None,
) -> int:
    """Run a server of several processes until it is told to stop; the exit status.

    `command` starts one of them; None: this program, with the same arguments.
    """
    configure_logging(settings.log_level, settings.log_format)
    problem = refused_setting(settings)
    if problem is not None:
        say_failed(problem, settings.log_format)
        return EXIT_FAILED
    if command is None:
        command = [sys.executable, "-m", "troth", *sys.argv[1:]]
    try:
        with ExitStack() as closing:
            manager = take_environment()
            handed_over = manager.handed_over
            mesh, mesh_address, secret = _open_mesh(settings, closing)
            (api, listen), (poll, poll_listen) = (
                _open_port(*port, processes_count, closing, is_one=mesh_address is not None)
                for port in (
                    (settings.listen, handed_over.api, "API", "--listen"),
                    (settings.poll_listen, handed_over.poll, "poll streams", "--poll-listen"),
                )
            )
            assert listen is not None, "there is always an API"
            if settings.cluster is None:
                path, lock, _ = open_identity(
                    settings.data,
                    RealFiles(),
                    settings.shards,
                    processes_count,
                    created_at_ms=now_ms,
                )
            else:
                path, lock = _lock_cache(settings)
            closing.callback(lock.close)
            assert isinstance(lock, LockedDirectory), "locked by these files"
            run_directory = _make_run_directory(path, lock)
            closing.callback(_empty, Path(path) / RUN_NAME)
            _provide_key(Path(path), settings.cluster, secret)  # once, and not by each process
            if processes_count > cores_count():
                _log.warning("there are more processes than cores", **_counts(processes_count))
            plan = ServerPlan(
                command=command,
                environment=os.environ,
                data=path,
                lock=lock.descriptor,
                run_directory=run_directory,
                api=api,
                poll=poll,
                api_address=(listen.host, listen.port),
                poll_address=None if poll_listen is None else (poll_listen.host, poll_listen.port),
                drain_s=settings.shutdown_timeout_ms / 1000,
                served_at=settings.url or f"http://{listen}",
                cluster=settings.cluster,
                mesh=mesh,
                mesh_address=mesh_address,
                owns_ports=not (handed_over.api or handed_over.poll),
            )
            ended = Supervisor(plan, TimedNotices(manager.address, manager.watchdog_s)).run()
    except (ListenError, HandedOverRefused, MeshRefused, PersistenceError) as error:
        say_failed(str(error), settings.log_format)
        return EXIT_FAILED
    if ended.problem is not None:
        say_failed(ended.problem, settings.log_format)
    return ended.status


def cluster_count(settings: Settings) -> int | None:
    """Return how many groups the cluster has, waiting for the engine; None, and said, if not.

    It is said as well if another server has the name of this one, or others do not share groups as
    this one does.
    """
    from troth.shards.streams.stream_opening import (
        cluster_at,
        cluster_book,
        node_name,
        refuse_taken_name,
        refuse_unlike,
    )

    configure_logging(settings.log_level, settings.log_format)
    assert settings.log is not None, "a cluster is in an engine"
    assert settings.cluster is not None
    try:
        found = cluster_at(settings.log, settings.cluster)
        node = node_name(settings.node, settings.data)
        with contextlib.closing(cluster_book(settings.log)) as book:
            refuse_taken_name(book, node, settings.data)
            refuse_unlike(book, node, is_shared=settings.mesh_listen is not None)
        return found.identity.groups_count
    except PersistenceError as error:
        say_failed(str(error), settings.log_format)
        return None


def _lock_cache(settings: Settings) -> tuple[str, FileLock]:
    """Lock the directory of a node, whose log is elsewhere. Raises a DataDirectoryError."""
    from troth.shards.streams.stream_storage import refuse_own_log

    files = RealFiles()
    path = files.resolved(os.fspath(settings.data))
    lock = lock_directory(files, path)
    try:
        refuse_own_log(Path(path), "the cluster")
    except BaseException:
        lock.close()
        raise
    return path, lock


def _counts(processes_count: int) -> dict[str, int]:
    return {"processes": processes_count, "cores": cores_count()}


def _open_port(
    address: ListenAddress | None,
    given: Sequence[socket.socket],
    name: str,
    flag: str,
    processes_count: int,
    closing: ExitStack,
    *,
    is_one: bool = False,
) -> tuple[Sockets, ListenAddress | None]:
    """Return the sockets of each process for a port, and its address. Raises ListenError.

    With `is_one` all have the same ones: those that stand by leave connections to the others.
    """
    if is_one and given:
        closing.callback(close_all, [[*given]])
        return [[*given]] * processes_count, address_of(given)
    if is_one:
        one, listen = _open_port(address, (), name, flag, 1, closing)
        return one * processes_count, listen
    sockets: Sockets = [[] for _ in range(processes_count)]
    if given:
        _log.warning(
            "the sockets that the service manager handed over go to process 0 only: all "
            "connections are its",
            port=name,
        )
        sockets[0] = [*given]
        address = address_of(given)
    elif address is not None:
        sockets = open_shared(address, processes_count, name, flag)
        address = ListenAddress(address.host, sockets[0][0].getsockname()[1])
    closing.callback(close_all, sockets)
    return sockets, address


def _open_mesh(
    settings: Settings, closing: ExitStack
) -> tuple[list[socket.socket], tuple[str, int] | None, bytes]:
    """Listen for other nodes of the cluster, if there are to be any.

    Returns sockets, their address, and the cluster's secret. Raises ListenError or MeshRefused.
    """
    address = settings.mesh_listen
    if address is None:
        return [], None, b""
    # Only here: other servers need none of it.
    from troth.http.processes.admission import check_mesh
    from troth.http.processes.mesh_files import MeshFilesRefused

    try:
        secret = check_mesh(settings)
    except MeshFilesRefused as error:
        raise MeshRefused(str(error)) from error
    (sockets,) = opened = open_shared(address, 1, "other nodes", "--mesh-listen")
    closing.callback(close_all, opened)
    return sockets, (address.host, sockets[0].getsockname()[1]), secret


def _provide_key(directory: Path, cluster: str | None, secret: bytes) -> None:
    """See to it that the directory has the operator's key. Raises OperatorKeyError.

    Nodes that have a secret have the same key.
    """
    if cluster is None or not secret:
        operator_key.provide(directory)
    else:
        operator_key.put(directory, operator_key.derived(secret, cluster))


def _make_run_directory(path: str, lock: LockedDirectory) -> str:
    """Make the directory for the sockets of processes, empty; return a short path of it.

    Only this user can enter it. Raises DataDirectoryUnwritable.
    """
    directory = Path(path) / RUN_NAME
    try:
        directory.mkdir(DIRECTORY_MODE, exist_ok=True)
        directory.chmod(DIRECTORY_MODE)
        _empty(directory)
    except OSError as error:
        raise DataDirectoryUnwritable(str(directory), error) from error
    if len(os.fsencode(directory)) + 1 + SOCKET_NAME_LIMIT_BYTES > SOCKET_PATH_LIMIT_BYTES:
        # Through the lock's descriptor; each process has it under a number of its own.
        return f"{descriptor_path(lock.descriptor)}{RUN_NAME}"
    return str(directory)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
