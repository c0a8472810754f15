"""`troth serve`: the life of a server, from its start to its end. `parts.py` wires its parts.

Start: take the sockets and the data directory, so that a second server fails before it has changed
anything; while the log is read back, answer requests with 503 and let workers wait for their
streams; then serve. Stop, on SIGTERM, SIGHUP or Ctrl-C: take no new connections,
answer what is in flight, write what is appended, exit 0; a second signal ends the process
immediately, which is safe because nothing unwritten was acknowledged. A service manager that waits
for it is told that the server is ready, stops, and lives (`supervision/`). Every failure that an
operator can do something about is one line and a non-zero exit status (`causes.py`).
"""

import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from troth.core.catalog import Account, Node, Token
from troth.http.admin.token_uses import TokenUses
from troth.http.api.context import Readiness
from troth.http.documents.served_pages import ServedPages
from troth.http.documents.table import API_ENDPOINTS
from troth.http.identity import operator_key
from troth.http.identity.copied import CredentialsCopy
from troth.http.identity.spreading import CredentialsOwner
from troth.http.metrics.of_processes import PROCESSES
from troth.http.monitoring.stream_metrics import STREAM
from troth.http.monitoring.tables import GROUPS
from troth.http.monitoring.traffic_metrics import ROOM
from troth.http.processes.last_answers import LastAnswers
from troth.http.processes.lease_watch import watch_lease
from troth.http.processes.loading import load_ahead
from troth.http.processes.mesh_files import MeshFilesRefused
from troth.http.processes.mesh_member import HELD_S, MeshMember
from troth.http.processes.opening import open_group_storage, open_storage
from troth.http.processes.scheduling import interrupt_no_others
from troth.http.processes.waiting_room import WaitingRoom
from troth.http.settings.settings import Settings
from troth.http.sockets.connection_room import relieving_shortages
from troth.http.sockets.descriptors import PLENTY, DescriptorShares, raise_limit, shares_of
from troth.http.sockets.doors import Door, addressed, make_doors
from troth.http.sockets.listener import SocketListener
from troth.http.sockets.ports import refuse_exposed
from troth.http.sockets.slow_side import LateApplication, load_soon
from troth.http.supervision.seated import Seated, wait_to_serve
from troth.http.supervision.service_manager import ServiceManager, taken
from troth.http.wire.principals import OPERATOR
from troth.persistence.errors import DataDirectoryError
from troth.persistence.process_memory import file_bytes, prepare_heap, resident_bytes
from troth.shards.collector import Collector, resting_collector, settle_collector
from troth.shards.gathered.cuts import GroupStorage
from troth.shards.storage import OwnedStorage, Storage
from troth.shards.threads import SWITCH_INTERVAL_S, in_thread
from troth.shards.upkeep.checkpointer import Checkpointer
from troth.shards.upkeep.folder import Folder
from troth.shards.upkeep.place import watch_place
from troth.shards.upkeep.tag_reader import read_tags

from .announcement import announce
from .causes import is_overtaken, is_succeeded, keeping_the_cause, problem_of
from .log_output import configure_logging, say_failed
from .parts import Parts

EXIT_OK = 0
EXIT_FAILED = 1

REPLACED_LIMIT_S: Final = 300.0
"""A process that was to be replaced and was not makes checkpoints again after this time."""

_IMPATIENT: Final = frozenset({signal.SIGTERM, signal.SIGINT})
"""Signals that end a server which is stopping already: a closing terminal sends SIGHUP twice."""

_PAGES: Final = ServedPages(API_ENDPOINTS, (*GROUPS, STREAM, PROCESSES))

_log = structlog.get_logger("troth.serve")


_TAKEOVER_LIMIT_S: Final = 20.0
"""How long an owner that has died may take to be replaced, on a busy machine."""

Answered = TypeVar("Answered")

WhenReady = Callable[[str, str, str], None]
"""Called in a thread with the server's URL, the operator's key and a one-time code."""


def serve(
    settings: Settings, when_ready: WhenReady | None = None, control: socket.socket | None = None
) -> int:
    """Run a server, or one process of several, until it is told to stop; the exit status.

    `control` leads to that process's supervisor.
    """
    seated: Seated | None = None
    configure_logging(settings.log_level, settings.log_format)
    prepare_heap()
    try:
        if control is not None:
            if settings.mesh_listen is not None:
                _check_mesh(settings)  # before this process takes the place of another one
            seated = wait_to_serve(
                control,
                load_ahead(settings, _PAGES.make_ahead),
                may_follow=settings.mesh_listen is not None,
            )
            process = seated.seat.process
            configure_logging(settings.log_level, settings.log_format, process=process)
            if seated.seat.processes_count > 1:
                interrupt_no_others()  # before any thread is started
        manager = seated or taken()
        trio.run(_serve, settings, manager, when_ready, strict_exception_groups=True)
    except MeshFilesRefused as error:
        say_failed(str(error), settings.log_format)
        return EXIT_FAILED
    except BaseException as error:
        if settings.mesh_listen is not None and is_succeeded(error):
            _log.warning("another node owns the group of this process by now")
            return EXIT_FAILED  # its supervisor starts it again, to stand by
        if is_overtaken(error):
            _log.warning("there is a later checkpoint than this process has read")
            return EXIT_FAILED  # its supervisor starts it again, to read that
        problem = problem_of(error)
        if problem is None:
            raise
        if seated is None:
            say_failed(problem, settings.log_format)
        else:
            seated.fatal(problem)  # the supervisor says it, when all have ended
        return EXIT_FAILED
    return EXIT_OK


def _check_mesh(settings: Settings) -> None:
    """See to it that other nodes let this one in. Raises MeshFilesRefused."""
    # Only here: other servers need none of it.
    from troth.http.processes.admission import check_mesh

    check_mesh(settings)


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that stop the server: not SIGHUP where `nohup` has it ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [*_IMPATIENT] if is_ignored else [*_IMPATIENT, signal.SIGHUP]


def run_meanwhile(settings: Settings, act: Callable[[str, str], None]) -> None:
    """Run a server that sends nothing for as long as `act` takes, which is called in a thread.

    It is given the server's address and the operator's key. Raises what it raises, and
    DataDirectoryError if another node goes on to own the log; else an exception group of what ended
    the server. A signal ends it without `act`.
    """
    configure_logging(settings.log_level, settings.log_format)
    raised: list[Exception] = []

    async def run() -> None:
        shares = shares_of(raise_limit())
        doors = make_doors(settings, shares)
        for door in doors:
            await door.open()
        with _closing(open_storage(settings)) as storage:
            server = Server(settings, storage, doors, shares, is_alone=True)

            async def run_server() -> None:
                await server.run()
                nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_server)
                with trio.move_on_after(_TAKEOVER_LIMIT_S):
                    await server.ready.wait()
                owner = storage.waits_for if isinstance(storage, OwnedStorage) else None
                if owner is not None and not server.ready.is_set():
                    raised.append(_owned_elsewhere(settings, owner))
                    server.stop.set()
                    return
                await server.ready.wait()
                try:
                    await trio.to_thread.run_sync(
                        act, server.api.url, server.api.credentials.operator_key
                    )
                except Exception as error:
                    raised.append(error)
                server.stop.set()

    trio.run(run, strict_exception_groups=True)
    if raised:
        raise raised[0]


def _owned_elsewhere(settings: Settings, owner: str) -> DataDirectoryError:
    return DataDirectoryError(
        f"{settings.data} is only a cache, and {owner} has its log. Run this command on the "
        "machine of that server, with --data of its directory."
    )


@contextmanager
def _closing(storage: Storage) -> Iterator[Storage]:
    """Close a storage at the end of a block; what ended the server counts."""
    try:
        yield storage
    except BaseException:
        with keeping_the_cause("closing the data directory"):
            storage.close()
        raise
    storage.close()


async def _serve(
    settings: Settings, manager: ServiceManager | Seated, when_ready: WhenReady | None
) -> None:
    """Take the ports, then the directory: what cannot be served must not leave a directory."""
    shares = shares_of(raise_limit())
    settings = addressed(settings, manager.handed_over)
    doors = make_doors(settings, shares, manager.handed_over, _processes_count(manager))
    for door in doors:
        await door.open()
    if isinstance(manager, Seated) and settings.cluster is not None:
        with _closing(await open_group_storage(settings, manager)) as storage:
            await Server(settings, storage, doors, shares, manager).run()
            if isinstance(storage, OwnedStorage):
                storage.keeps_ownership = manager.is_replaced
        if manager.is_replaced:
            manager.gone()  # the next process need not wait until all memory is given back
        return
    seated = manager if isinstance(manager, Seated) else None
    with _closing(open_storage(settings, seated)) as storage:
        server = Server(settings, storage, doors, shares, manager)
        if when_ready is None:
            await server.run()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell_when_ready, server, when_ready)
            await server.run()
            nursery.cancel_scope.cancel()


def _processes_count(manager: ServiceManager | Seated) -> int:
    return 1 if isinstance(manager, ServiceManager) else manager.seat.processes_count


async def _tell_when_ready(server: "Server", when_ready: WhenReady) -> None:
    await server.ready.wait()
    credentials = server.api.credentials
    code = credentials.sessions.new_code(OPERATOR)
    await trio.to_thread.run_sync(
        when_ready, server.api.url, credentials.operator_key, code, abandon_on_cancel=True
    )


class Server:
    """One server: starts its parts in order, and ends them in order.

    The listeners of `doors` are open; the first is the API's. A server that `is_alone` sends no
    messages: they wait for the next start. `shares` says how many connections of each kind there
    may be.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        doors: list[Door],
        shares: DescriptorShares = PLENTY,
        manager: ServiceManager | Seated | None = None,
        *,
        is_alone: bool = False,
    ) -> None:
        self._is_alone = is_alone
        self._manager = manager or ServiceManager()
        self._seated = manager if isinstance(manager, Seated) else None
        self.settings = settings
        self.storage = storage
        self.doors = doors
        self.listeners = [door.listener for door in doors]
        self._parts = Parts(settings, storage, doors, shares, self._make_member())
        self.api = self._parts.api
        self.shards = self._parts.shards
        self._answers = trio.Event()  # set when the API's port has begun to
        self.ready = trio.Event()
        """Set when requests are served."""
        self.stop = trio.Event()
        """Setting it stops the server, as a signal does."""
        self.checkpointer: Checkpointer | None = None
        self._waiting_room: WaitingRoom | None = None
        self._last_answers = LastAnswers()
        self._is_covered = False
        """Whether a checkpoint was made for the next process, which has little more to read."""

    def _make_member(self) -> MeshMember | None:
        """Make this process one of several, if it is."""
        seated, storage = self._seated, self.storage
        if seated is None or seated.seat.processes_count == 1:
            return None
        assert isinstance(storage, GroupStorage), "several share what is kept"
        return MeshMember(seated, storage, self.settings)

    async def run(self) -> None:
        """Serve until told to stop. Raises DataDirectoryError or LogFailed."""
        running: list[SocketListener] = []
        self.api.pages = _PAGES.of(self.api)
        parts = self._parts
        room = self.listeners[0].room
        async with (
            parts.keeping_a_reserve(),
            relieving_shortages(room),
            parts.push,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._stop_on_signal, nursery, running)
            nursery.start_soon(self._manager.run)
            if self._seated is not None:
                nursery.start_soon(self._drain_when_told, self._seated)
                nursery.start_soon(self._checkpoint_when_told, self._seated)
            nursery.start_soon(self._stop_when_asked, nursery, running)
            for door, endpoints in zip(self.doors, parts.tables, strict=False):
                door.application = LateApplication(self.api, endpoints)
                door.listener.in_flight = self.api.in_flight
                door.listener.gate = parts.gate
            self.api.metrics.add(ROOM, room.statistics)
            nursery.start_soon(parts.loop_lag.run)
            nursery.start_soon(self.api.in_flight.watch)
            lanes = parts.make_lanes()
            for lane in lanes:
                await nursery.start(self._last_answers.run_lane, lane)
            if parts.member is None:
                await self._start(nursery, running, self.doors[0].listener)
            else:
                parts.member.bring_streams(self.listeners, self.api)
                nursery.start_soon(self._start_late, nursery, running, self.doors[0].listener)
                if self._is_shared:
                    self._waiting_room = parts.make_waiting_room(self.ready)
                    nursery.start_soon(self._waiting_room.run)
            if parts.cluster is not None:
                nursery.start_soon(parts.cluster.watch_owner)
            # Not abandoned when the server is stopped during it: the storage is closed next, and
            # no thread may be using it then.
            with resting_collector():
                recovery = await in_thread(
                    lambda: self.shards.recover(self.storage, trio.from_thread.check_cancelled)
                )
            if parts.cluster is not None:
                parts.own_group()
                nursery.start_soon(parts.cluster.run)
            parts.continue_clock()
            parts.placement.withhold(None)  # until it is known who is disabled
            if not self._is_alone:
                await nursery.start(parts.delivery.run)
                await nursery.start(parts.placement.run)
                await nursery.start(parts.function_calls.run)
            await nursery.start(self._run_shards, running)
            if parts.member is not None:
                await nursery.start(parts.member.run, self.shards, lanes[0])
            elif self._seated is not None:
                self._seated.listening()  # there are no others
            if parts.tracing is not None:
                await nursery.start(parts.tracing.run, parts.durable)
            nursery.start_soon(parts.clock.run, self.shards.clock_jumped, self.shards.may_lease)
            if self.storage.directory is not None:
                nursery.start_soon(watch_place, self.storage.check, self.shards.committer.fail)
            await self._introduce_nodes(nursery)
            await self._introduce_accounts(nursery)
            await self._start_upkeep(nursery)
            if self._is_stopping:
                return  # the stop that has begun ends the rest
            settle_collector()
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            trio.lowlevel.add_instrument(Collector())
            self.api.may_answer = self.shards.committer.may_answer
            self.api.readiness = Readiness.READY
            self.ready.set()
            if self.shards.committer.may_answer is not None:
                nursery.start_soon(watch_lease, self.api, self.shards.committer.may_answer)
            # Until now they have waited in the port's queue. Requests may be refused until then,
            # but not streams: some workers never ask again after a refusal (resonate-sdk 0.4.12).
            for door in self.doors[1:]:
                await self._start(nursery, running, door.listener)
            if parts.member is not None:
                await self._answers.wait()
                await nursery.start(parts.member.take_streams, self.listeners)
            if not self._is_stopping:
                announce(parts, recovery, is_one_of_several=self._seated is not None)
                nursery.start_soon(load_soon)
                self._manager.ready(f"serving at {parts.url}")

    async def _run_shards(
        self,
        running: list[SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run the shards. If they fail, clients that wait hear that before this process ends."""
        try:
            await self.shards.run(self.storage.make_writer, task_status=task_status)
        except Exception:
            self.api.is_draining = False
            self.api.readiness = Readiness.STOPPING
            self._parts.endings.close()
            await self._last_answers.give(running, self._parts.member)
            raise

    async def _introduce_nodes(self, nursery: trio.Nursery) -> None:
        """Tell placement which nodes there are, and what they were working on."""
        parts, list_entries = self._parts, self.shards.list_entries
        member, placed = parts.member, parts.placed
        if member is not None and placed is None:
            return  # another process places all executions
        nodes = await self._known(lambda: list_entries(Node, None))
        for node in nodes:
            parts.placement.put_node(node)
        parts.placement.restore_all(self.shards.assigned_executions())
        if placed is not None:
            for process in placed.others:
                await self._known(partial(placed.compare, process))
            nursery.start_soon(placed.run)

    async def _known(self, ask: Callable[[], Awaitable[Answered]]) -> Answered:
        """Ask; other processes that have a part of the answer are waited for."""
        member = self._parts.member
        return await (ask() if member is None else member.until_all_answer(ask))

    async def _introduce_accounts(self, nursery: trio.Nursery) -> None:
        """Learn who may do what. Raises ListenError if that would let in other machines."""
        credentials = self.api.credentials
        if self.storage.directory is not None:
            credentials.operator_key = operator_key.provide(self.storage.directory)
        else:
            credentials.operator_key = operator_key.new_key()
        shared = self._parts.shared
        if isinstance(shared, CredentialsCopy):
            nursery.start_soon(shared.run)
            await shared.loaded.wait()
        else:
            credentials.load(*await self._accounts())
        if isinstance(shared, CredentialsOwner):
            assert self._seated is not None, "who shares has a supervisor"
            await self._seated.owning()
            shared.begin()
            nursery.start_soon(shared.run)
        self._parts.placement.withhold(credentials.disabled_accounts())
        if credentials.is_open:
            refuse_exposed(self.settings)

    async def _accounts(self) -> tuple[list[Account], list[Token]]:
        """Return all accounts and tokens; other processes that have some are waited for."""
        list_entries = self.shards.list_entries
        return (
            await self._known(lambda: list_entries(Account, None)),
            await self._known(lambda: list_entries(Token, None)),
        )

    async def _start_upkeep(self, nursery: trio.Nursery) -> None:
        """Start checkpoints, snapshots, retention, bulk jobs and the checking of uploads."""
        parts = self._parts
        self.checkpointer = parts.make_checkpointer()
        if self.checkpointer is not None:
            nursery.start_soon(self.checkpointer.run)
            engine = parts.make_stream_upkeep()
            snapshotter = parts.make_snapshotter(self.checkpointer, engine)
            if engine is not None:
                nursery.start_soon(engine.run)
            if snapshotter is not None:
                nursery.start_soon(snapshotter.run)
        nursery.start_soon(Folder(self.shards).run)
        nursery.start_soon(read_tags, self.shards.states())
        nursery.start_soon(parts.make_sweeper().run)
        nursery.start_soon(parts.make_feed().run)
        if not self._is_alone:
            nursery.start_soon(parts.make_counting().run)
        if parts.member is not None:
            if isinstance(parts.shared, CredentialsOwner):
                nursery.start_soon(TokenUses(self.api).run)
                await nursery.start(parts.make_bulk_jobs().run)
                await nursery.start(parts.make_builder().run)
            return
        if not self._is_alone:
            nursery.start_soon(TokenUses(self.api).run)
            await nursery.start(parts.make_bulk_jobs().run)
        await nursery.start(parts.make_builder().run)

    @property
    def _is_shared(self) -> bool:
        """Return whether other nodes have some of the groups."""
        return self.settings.mesh_listen is not None and self._parts.member is not None

    @property
    def _is_stopping(self) -> bool:
        return self.api.readiness is Readiness.STOPPING

    async def _start(
        self, nursery: trio.Nursery, running: list[SocketListener], listener: SocketListener
    ) -> None:
        await nursery.start(listener.run)
        running.append(listener)

    async def _start_late(
        self, nursery: trio.Nursery, running: list[SocketListener], listener: SocketListener
    ) -> None:
        """Start to answer when this process is ready, or after a while.

        Until then connections wait in its sockets, which its supervisor keeps, or go to others.
        """
        with trio.move_on_after(float("inf") if self._is_shared else HELD_S):
            await self.ready.wait()
        if not self._is_stopping:
            await self._start(nursery, running, listener)
            self._answers.set()

    async def _stop_on_signal(self, nursery: trio.Nursery, running: list[SocketListener]) -> None:
        with trio.open_signal_receiver(*_stop_signals()) as signals:
            async for number in signals:
                name = signal.Signals(number).name
                if not self._is_stopping:
                    _log.info("stopping", signal=name)
                    nursery.start_soon(self._stop, nursery, running)
                elif number in _IMPATIENT:
                    _log.warning("stopping immediately", signal=name)
                    os._exit(EXIT_FAILED)

    async def _drain_when_told(self, seated: Seated) -> None:
        await seated.drain.wait()
        self.stop.set()

    async def _checkpoint_when_told(self, seated: Seated) -> None:
        while True:  # a restart may end early, and another one follow
            await seated.checkpoint.wait()
            seated.checkpoint = trio.Event()
            self._is_covered = False
            size_bytes = resident_bytes() - file_bytes()
            checkpointer = self.checkpointer
            if checkpointer is None:
                seated.checkpointed(is_covered=False, memory_bytes=size_bytes)
                continue
            await checkpointer.checkpoint()
            self._is_covered = True
            async with checkpointer.resting():  # the next process reads that one
                seated.checkpointed(is_covered=True, memory_bytes=size_bytes)
                with trio.move_on_after(REPLACED_LIMIT_S):
                    await seated.stays.wait()

    async def _stop_when_asked(self, nursery: trio.Nursery, running: list[SocketListener]) -> None:
        await self.stop.wait()
        await self._stop(nursery, running)

    async def _stop(self, nursery: trio.Nursery, listeners: list[SocketListener]) -> None:
        was_ready = self.api.readiness is Readiness.READY
        # Among several, a request whose connection is here already is answered as any other.
        self.api.is_draining = was_ready and self._seated is not None
        self.api.readiness = Readiness.STOPPING
        self._manager.stopping()
        self._parts.endings.close()
        limit_s = self.settings.shutdown_timeout_ms / 1000
        with trio.move_on_after(limit_s):
            async with trio.open_nursery() as stopping:
                for listener in listeners:
                    stopping.start_soon(listener.stop)
                if self._waiting_room is not None:
                    stopping.start_soon(self._waiting_room.stop)
            if self._seated is None:
                await self._end_shards(was_ready=was_ready)
        if self._seated is not None:
            # Others may still need this group for what their clients have in flight.
            self._seated.drained()
            with trio.move_on_after(2 * limit_s):
                await self._seated.stop.wait()
            self.api.is_draining = False
            with trio.move_on_after(limit_s):
                await self._end_shards(was_ready=was_ready)
        for listener in listeners:
            listener.cut()
        nursery.cancel_scope.cancel()

    async def _end_shards(self, *, was_ready: bool) -> None:
        """Finish what the shards have taken, and write a last checkpoint."""
        if was_ready:
            await self.shards.stop()
            if self._parts.member is not None:
                self._parts.member.say_last()
            seated = self._seated
            # The next process, or another node, waits for the group.
            is_awaited = seated is not None and (
                seated.is_left or (seated.is_replaced and self._is_covered)
            )
            if self.checkpointer is not None and not is_awaited:
                if seated is not None:
                    seated.stays.set()
                await self.checkpointer.checkpoint(is_last=True)
