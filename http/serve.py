"""`troth serve`: puts the parts of a server together, runs them and takes them apart again.

Start: take the sockets and the data directory, so that a second server fails before it has changed
anything; while the log is read back, answer requests with 503 and let workers wait for their
streams; then serve. Stop, on SIGTERM, SIGHUP or Ctrl-C: take no new connections,
answer what is in flight, write what is appended, exit 0; a second signal ends the process
immediately, which is safe because nothing unwritten was acknowledged. Every failure that an
operator can do something about is one line and a non-zero exit status (`causes.py`).
"""

import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from troth import __version__
from troth.core import limits
from troth.core.catalog import Account, Node, Token
from troth.core.deciding import Options
from troth.core.grammar.cron import parse as parse_cron
from troth.core.replies import Message, TaskMessage
from troth.http.api.context import Api, Readiness
from troth.http.documents.table import API_ENDPOINTS, POLL_ENDPOINTS
from troth.http.envelope import messages
from troth.http.executions.calls import FunctionCalls
from troth.http.functions.builder import Builder
from troth.http.identity import operator_key
from troth.http.identity.audit import AuditLog
from troth.http.outgoing.connections import OutgoingRoom
from troth.http.outgoing.guards import OwnPorts
from troth.http.outgoing.push import PushSender
from troth.http.promises.rendering import render_message
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.retention import rule_texts
from troth.http.settings.settings import Settings
from troth.http.sockets.asgi import create_application, create_poll_application
from troth.http.sockets.connection_room import ConnectionRoom, relieving_shortages
from troth.http.sockets.descriptors import PLENTY, DescriptorShares, raise_limit, shares_of
from troth.http.sockets.hypercorn_connection import ASGIApplication
from troth.http.sockets.lane import Lane
from troth.http.sockets.listener import ListenError, SocketListener
from troth.http.sockets.slow_gate import SlowGate
from troth.shards.clock import SystemClock
from troth.shards.delivery.delivery import Delivery
from troth.shards.delivery.polls import Polls
from troth.shards.outgoing import OutgoingRoutes
from troth.shards.placement.endings import Endings
from troth.shards.placement.placement import Placement
from troth.shards.shards import Shards
from troth.shards.storage import DirectoryStorage, MemoryStorage, Recovery, Storage
from troth.shards.upkeep.checkpointer import Checkpointer
from troth.shards.upkeep.place import watch_place
from troth.shards.upkeep.retention import Sweeper
from troth.shards.upkeep.snapshotter import Snapshotter

from .causes import keeping_the_cause, problem_of
from .local_zone import local_zone
from .log_output import configure_logging

EXIT_OK = 0
EXIT_FAILED = 1

_IMPATIENT: Final = frozenset({signal.SIGTERM, signal.SIGINT})
"""Signals that end a server which is stopping already: a closing terminal sends SIGHUP twice."""

_log = structlog.get_logger("troth.serve")


def serve(settings: Settings) -> int:
    """Run a server until it is told to stop; the process's exit status."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        trio.run(_serve, settings, strict_exception_groups=True)
    except BaseException as error:
        problem = problem_of(error)
        if problem is None:
            raise
        return _fail(problem, settings.log_format)
    return EXIT_OK


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that stop the server: not SIGHUP where `nohup` has it ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [*_IMPATIENT] if is_ignored else [*_IMPATIENT, signal.SIGHUP]


def _fail(problem: str, log_format: str) -> int:
    if log_format == "json":
        _log.error("the server has failed", problem=problem)
    else:
        with suppress(OSError):  # the terminal may be gone
            print(f"troth: {problem}", file=sys.stderr)
    return EXIT_FAILED


def _open_storage(settings: Settings) -> Storage:
    if settings.in_memory:
        return MemoryStorage(settings.shards)
    return DirectoryStorage(
        settings.data,
        settings.shards,
        settings.segment_bytes,
        archive_directory=settings.archive_directory,
        archive_keep_ms=settings.archive_keep_ms,
    )


@contextmanager
def _opened_storage(settings: Settings) -> Iterator[Storage]:
    """Open what the server keeps its records in, and close it; what ended the server counts."""
    storage = _open_storage(settings)
    try:
        yield storage
    except BaseException:
        with keeping_the_cause("closing the data directory"):
            storage.close()
        raise
    storage.close()


def run_meanwhile(settings: Settings, act: Callable[[str, str], None]) -> None:
    """Run a server that sends nothing for as long as `act` takes, which is called in a thread.

    It is given the server's address and the operator's key. Raises what it raises; else an
    exception group of what ended the server.
    """
    configure_logging(settings.log_level, settings.log_format)
    raised: list[Exception] = []

    async def run() -> None:
        shares = shares_of(raise_limit())
        doors = _make_doors(settings, shares)
        for door in doors:
            await door.listener.open()
        with _opened_storage(settings) as storage:
            server = Server(settings, storage, doors, shares, is_alone=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run)
                await server.ready.wait()
                try:
                    await trio.to_thread.run_sync(
                        act, server.url, server.api.directory.operator_key
                    )
                except Exception as error:
                    raised.append(error)
                server.stop.set()

    trio.run(run, strict_exception_groups=True)
    if raised:
        raise raised[0]


def _refuse_exposed(settings: Settings) -> None:
    """Raise ListenError if other machines would be let in and nobody would need credentials."""
    name = settings.exposed
    if name is not None:
        raise ListenError(
            f"Cannot serve: {name} is {getattr(settings, name)}, which other machines can reach, "
            "and nobody would need credentials. Make an account first (`troth account add NAME "
            f"--data {settings.data}`), name users with basic_auth, choose an address of this "
            "machine only, or set allow_anonymous to let everybody in."
        )


async def _serve(settings: Settings) -> None:
    """Take the ports, then the directory: what cannot be served must not leave a directory."""
    shares = shares_of(raise_limit())
    doors = _make_doors(settings, shares)
    for door in doors:
        await door.listener.open()
    with _opened_storage(settings) as storage:
        await Server(settings, storage, doors, shares).run()


class Door:
    """A port that is taken before the server behind it is made: `application` comes later."""

    def __init__(
        self,
        address: ListenAddress,
        settings: Settings,
        name: str,
        flag: str,
        room: ConnectionRoom | None = None,
    ) -> None:
        self.listener = SocketListener(
            self._answer, address, settings, name=name, flag=flag, url=settings.url, room=room
        )
        self.application: ASGIApplication | None = None

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.application is not None, "the listener runs only when there is a server"
        await self.application(scope, receive, send)


def _make_doors(settings: Settings, shares: DescriptorShares) -> list[Door]:
    """The API's port and, unless it is switched off, that of the poll streams."""
    room = ConnectionRoom(
        shares.incoming_count,
        per_address_limit_count=settings.connections_per_address_limit_count,
        now=trio.current_time,
    )
    doors = [Door(settings.listen, settings, "API", "--listen", room)]
    if settings.poll_listen is not None:
        doors.append(Door(settings.poll_listen, settings, "poll streams", "--poll-listen", room))
    return doors


def _options(settings: Settings) -> Options:
    counts: dict[object, int | None] = {"all": None, "latest": 1}
    chosen = settings.schedule_catch_up
    return Options(
        task_claim_timeout_ms=settings.task_claim_timeout_ms,
        catch_up_count=counts[chosen] if isinstance(chosen, str) else chosen,
        time_zone=settings.time_zone if settings.time_zone is not None else local_zone(),
        retention=settings.retain,
    )


class Server:
    """One server's parts, wired together. `url` is what links begin with.

    The listeners of `doors` are open; the first is the API's. A server that `is_alone` sends
    nothing to anybody: what is to be sent waits for the next start. `shares` says how many
    connections of each kind there may be.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        doors: list[Door],
        shares: DescriptorShares = PLENTY,
        *,
        is_alone: bool = False,
    ) -> None:
        self._shares = shares
        self._is_alone = is_alone
        self.settings = settings
        self.storage = storage
        self.doors = doors
        self.listeners = [door.listener for door in doors]
        # Without a setting, the address with the port that the listener really got.
        self.url = (settings.url or self.listeners[0].url).rstrip("/")
        self.clock = SystemClock()
        self.polls = Polls(
            connections_limit_count=min(
                settings.poll_connections_limit_count, shares.streams_count
            ),
            buffer_limit_count=settings.poll_buffer_limit_count,
        )
        outgoing_room = OutgoingRoom(shares.outgoing_count)
        own_ports = OwnPorts(frozenset(listener.port for listener in self.listeners))
        self.push = PushSender(
            timeout_ms=settings.push_timeout_ms,
            named_urls=settings.target_urls,
            is_free=self._may_push_anywhere,
            own_ports=own_ports,
            room=outgoing_room,
        )
        self.delivery = Delivery(
            render=self._render,
            push=self.push,
            polls=self.polls,
            report=lambda command: self.shards.tell(command),
            targets=settings.targets,
            now_ms=self.clock.now_ms,
            random=random.Random(),  # noqa: S311  jitter of back-off, not a secret
            retry_first_ms=settings.task_retry_first_ms,
            retry_limit_ms=settings.task_retry_limit_ms,
            concurrency_per_target_count=settings.push_concurrency_per_target_count,
            concurrency_count=settings.push_concurrency_count,
            target_queue_limit_count=settings.target_queue_limit_count,
        )
        self.endings = Endings(limit_count=limits.RESULT_WAITS_LIMIT_COUNT)
        self.function_calls = FunctionCalls(
            ask=lambda command: self.shards.ask(command),
            body_limit_bytes=settings.body_limit_bytes,
            guard=own_ports.may_be_called
            if settings.function_private_networks
            else own_ports.public_only,
            room=outgoing_room,
        )
        self.placement = Placement(
            report=lambda command: self.shards.tell(command),
            calls=self.function_calls,
            endings=self.endings,
            now_ms=self.clock.now_ms,
            calls_concurrency_count=settings.function_calls_concurrency_count,
            calls_per_host_count=settings.function_calls_per_host_count,
        )
        self.function_calls.attach(self.placement)
        self.shards = Shards(
            shard_count=storage.shard_count,
            clock=self.clock,
            outgoing=OutgoingRoutes(self.delivery, self.placement),
            cursor_secret=storage.secret,
            options=_options(settings),
            mailbox_limit_count=settings.mailbox_limit_count,
        )
        self.ready = trio.Event()
        """Set when requests are served."""
        self.stop = trio.Event()
        """Whoever sets it stops the server, as a signal does."""
        self.checkpointer: Checkpointer | None = None
        self.api = Api(
            settings=settings,
            url=self.url,
            shards=self.shards,
            polls=self.polls,
            hold=self.shards.hold,
            now_ms=self.clock.now_ms,
            statistics={
                "delivery": self.delivery.statistics,
                "placement": self.placement.statistics,
                "function_calls": self.function_calls.statistics,
                "log": storage.statistics,
            },
            readiness=Readiness.STARTING,
            placement=self.placement,
            endings=self.endings,
        )

        if isinstance(storage, DirectoryStorage):
            self.api.audit = AuditLog(self.clock.now_ms, Path(storage.place), check=storage.check)
        # Until the catalog has been read, nobody knows whether there are accounts.
        self.api.directory.unload()

    def _may_push_anywhere(self) -> bool:
        """Whether clients may name receivers on this machine and in its networks."""
        settings = self.settings
        is_open = settings.is_only_for_this_machine and self.api.directory.is_open
        return settings.push_private_networks or is_open

    def _render(self, message: Message) -> bytes:
        if isinstance(message, TaskMessage):
            return render_message(message, self.url)
        return messages.render_message(message, self.url)

    async def run(self) -> None:
        """Serve until told to stop. Raises DataDirectoryError or LogFailed."""
        running: list[SocketListener] = []
        applications = (create_application(self.api), create_poll_application(self.api))
        room = self.listeners[0].room
        gate = SlowGate()
        async with relieving_shortages(room), self.push, trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_on_signal, nursery, running)
            nursery.start_soon(self._stop_when_asked, nursery, running)
            for door, application in zip(self.doors, applications, strict=False):
                door.application = application
                name = f"listener_{door.listener.name.split()[0].lower()}"
                self.api.metrics.add_source(name, door.listener.statistics)
                door.listener.in_flight = self.api.in_flight
                door.listener.gate = gate
            self.api.metrics.add_source("connections", room.statistics)
            self.api.metrics.add_source("slow_gate", gate.statistics)
            nursery.start_soon(self.api.in_flight.watch)
            await self._start_lanes(nursery)
            await self._start(nursery, running, self.doors[0].listener)
            # Not abandoned when the server is stopped meanwhile: the storage is closed next, and
            # nobody may be using it then.
            recovery = await trio.to_thread.run_sync(
                self.shards.recover, self.storage, trio.from_thread.check_cancelled
            )
            self.placement.withhold(None)  # until it is known who is disabled
            if not self._is_alone:
                await nursery.start(self.delivery.run)
                await nursery.start(self.placement.run)
                await nursery.start(self.function_calls.run)
            await nursery.start(self.shards.run, self.storage.make_writer)
            if isinstance(self.storage, DirectoryStorage):
                nursery.start_soon(watch_place, self.storage.check, self.shards.committer.fail)
            await self._introduce_nodes()
            if isinstance(self.storage, DirectoryStorage):
                self.api.directory.operator_key = operator_key.provide(Path(self.storage.place))
            else:
                self.api.directory.operator_key = operator_key.new_key()
            self.api.directory.load(
                await self.shards.list_entries(Account, None),
                await self.shards.list_entries(Token, None),
            )
            self.placement.withhold(self.api.directory.disabled_accounts())
            if self.api.directory.is_open:
                _refuse_exposed(self.settings)
            self.checkpointer = self.shards.make_checkpointer(
                self.storage,
                interval_ms=self.settings.checkpoint_interval_ms,
                log_bytes=self.settings.checkpoint_log_bytes,
            )
            if self.checkpointer is not None:
                self.api.metrics.add_source("checkpoints", self.checkpointer.statistics)
                nursery.start_soon(self.checkpointer.run)
                self._start_snapshotter(nursery, self.checkpointer)
            self._start_sweeper(nursery)
            await self._start_builder(nursery)
            if self._is_stopping:
                return  # the stop that has begun ends the rest
            gc.collect()
            gc.freeze()
            # What survives is state, nearly always: so look seldom, but never at so much at a time
            # that requests would wait for more than some 10 ms.
            gc.set_threshold(20_000, 5, 100)
            self.api.readiness = Readiness.READY
            self.ready.set()
            # Until now they have waited in the port's queue. Requests may be refused meanwhile, but
            # not streams: some workers never ask again after a refusal (resonate-sdk 0.4.12).
            for door in self.doors[1:]:
                await self._start(nursery, running, door.listener)
            if not self._is_stopping:
                self._announce(recovery)

    async def _introduce_nodes(self) -> None:
        """Tell placement which nodes there are, and what they were working on."""
        for node in await self.shards.list_entries(Node, None):
            self.placement.put_node(node)
        self.placement.restore_all(self.shards.assigned_executions())

    @property
    def _is_stopping(self) -> bool:
        return self.api.readiness is Readiness.STOPPING

    async def _start_lanes(self, nursery: trio.Nursery) -> None:
        """Make a lane for each port."""
        if not self.settings.hot_lane:
            return
        tables = (("lane", API_ENDPOINTS), ("poll_lane", POLL_ENDPOINTS))
        for door, (name, endpoints) in zip(self.doors, tables, strict=False):
            lane = Lane(self.api, endpoints, door.listener.limits)
            self.api.metrics.add_source(name, lane.statistics)
            await nursery.start(lane.run)
            door.listener.lane = lane

    def _start_sweeper(self, nursery: trio.Nursery) -> None:
        rules = self.settings.retain
        sweeper = Sweeper(
            self.shards,
            rules,
            rule_texts(rules),
            interval_ms=self.settings.retention_interval_ms,
            now_ms=self.clock.now_ms,
        )
        self.api.sweeper = sweeper
        self.api.metrics.add_source("retention", sweeper.statistics)
        nursery.start_soon(sweeper.run)

    async def _start_builder(self, nursery: trio.Nursery) -> None:
        builder = Builder(self.api)
        self.api.builder = builder
        self.api.metrics.add_source("builds", builder.statistics)
        await nursery.start(builder.run)

    def _start_snapshotter(self, nursery: trio.Nursery, checkpointer: Checkpointer) -> None:
        if not isinstance(self.storage, DirectoryStorage):
            return
        settings = self.settings
        schedule = settings.snapshot_schedule
        snapshotter = Snapshotter(
            self.storage,
            checkpointer.checkpoint,
            self.clock,
            directory=settings.snapshot_directory,
            schedule=None
            if schedule is None
            else parse_cron(schedule, _options(settings).time_zone),
            keep_count=settings.snapshot_keep_count,
        )
        self.api.snapshotter = snapshotter
        self.api.metrics.add_source("snapshots", snapshotter.statistics)
        nursery.start_soon(snapshotter.run)

    async def _start(
        self, nursery: trio.Nursery, running: list[SocketListener], listener: SocketListener
    ) -> None:
        await nursery.start(listener.run)
        running.append(listener)

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

    async def _stop_when_asked(self, nursery: trio.Nursery, running: list[SocketListener]) -> None:
        await self.stop.wait()
        await self._stop(nursery, running)

    async def _stop(self, nursery: trio.Nursery, listeners: list[SocketListener]) -> None:
        was_ready = self.api.readiness is Readiness.READY
        self.api.readiness = Readiness.STOPPING
        self.endings.close()
        with trio.move_on_after(self.settings.shutdown_timeout_ms / 1000):
            async with trio.open_nursery() as stopping:
                for listener in listeners:
                    stopping.start_soon(listener.stop)
            if was_ready:
                await self.shards.stop()
                if self.checkpointer is not None:
                    await self.checkpointer.checkpoint()
        for listener in listeners:
            listener.cut()
        nursery.cancel_scope.cancel()

    def _announce(self, recovery: Recovery) -> None:
        if recovery.torn_bytes_count:
            _log.warning(
                "the log ended in a batch that a crash left half-written; nobody had been told "
                "of it, and it was cut off",
                torn_bytes=recovery.torn_bytes_count,
                file=recovery.torn_file,
            )
        wanted_count = self.settings.connection_limit_count
        if self._shares.incoming_count < wanted_count:
            _log.warning(
                "fewer connections than connection_limit_count says: raise the limit of open files "
                "(ulimit -n, or LimitNOFILE of the service)",
                connections=self._shares.incoming_count,
                connection_limit_count=wanted_count,
                open_files=self._shares.limit_count,
            )
        promises = sum(shard.promises_count for shard in self.shards.statistics().shards)
        _log.info(
            "ready",
            version=__version__,
            directory=self.storage.place,
            promises=promises,
            records=recovery.records_count,
            recovery_ms=recovery.duration_ms,
            api=self.url,
        )
        if self.settings.in_memory:
            # There is no data directory that it could be read from.
            key = self.api.directory.operator_key
            _log.info("the operator's key, for this run", key=key)
