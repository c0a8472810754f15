"""A node at work: registered with a server, it takes executions, runs them and reports results.

- It takes executions only from its work stream, and opens that again, ever more slowly, when it
  ends. Running executions continue.
- An execution is run while its lease lives: every report that the server hears renews it. When it
  has run out, the server has given the execution to another node, so it is ended here.
- A result is sent until the server has it, refuses it, or the lease has run out.
- On the first signal to stop it takes nothing more, lets executions end for a while, and gives back
  the others; on the second it gives them back immediately.
"""

import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
import trio

from troth.core.limits import BODY_LIMIT_BYTES, REQUEST_HEADERS_LIMIT_BYTES

from .builds import Builds
from .client import ServerClient
from .errors import NodeError, NotReached, ServerRefused
from .exchanges import Exchanges, GivenExecution
from .execution import LocalExecution
from .limits import ResultLimits
from .link import Link
from .machine import Place, prepare, taken
from .neighbors import refuse_beside_a_server
from .workers import open_workers

BACKOFF_FIRST_S: Final = 0.25
BACKOFF_LIMIT_S: Final = 15.0
REPORT_MIN_INTERVAL_S: Final = 1.0
RETURN_TIMEOUT_S: Final = 3.0
_DEFAULT_HEARTBEAT_MS: Final = 3_000
_NEVER_TAKEN: Final = frozenset({400, 413, 422, 431})
"""Statuses that say that a registration would be refused however often it is sent."""

_log = structlog.get_logger("troth.node")


@dataclass(frozen=True)
class NodeOptions:
    """The options of `troth node`."""

    server: str
    token: str
    directory: Path
    description: str = ""
    slots_count: int = 1
    cpu_count: int = 1
    memory_mb: int = 512
    latency_ms: int = 0
    privileged: bool = False
    shared: bool = False
    grace_s: float = 30.0
    uid_base: int = 700_000
    ca_file: Path | None = None
    trusts_functions: bool = False
    """Start although functions can read the key of a server on this machine."""

    def refuse_beside_a_server(self) -> None:
        """Raise NodeError if functions have no users of their own and could read a server's key."""
        if os.geteuid() != 0 and not self.trusts_functions:
            refuse_beside_a_server()


class Manager(Protocol):
    """What started this process; see `ServiceManager` in `http/supervision/`."""

    def ready(self, status: str) -> None: ...

    def status(self, text: str) -> None: ...

    def stopping(self) -> None: ...

    async def run(self) -> None: ...


async def run_node(options: NodeOptions, manager: Manager) -> None:
    """Be a node until a signal says otherwise. Raises NodeError, in an exception group or not."""
    client = ServerClient(
        options.server, options.token, str(options.ca_file) if options.ca_file else None
    )
    options.refuse_beside_a_server()
    async with taken(options.directory, options.uid_base):
        place = await prepare(options.directory, options.uid_base)
        builds = Builds(place.builds, place.first_gid)
        builds.open()
        idle_limit_count = max(4, 2 * options.slots_count)
        try:
            async with open_workers(place.machine, idle_limit_count) as workers:
                path = f"/v1/node/{place.node_id}"
                link = Link(client, path, builds, workers, options.memory_mb, options.cpu_count)
                await Agent(options, place, link, manager).run()
        finally:
            with trio.CancelScope(shield=True):
                await client.close()


class Agent:
    """One node, from its registration to its end."""

    def __init__(self, options: NodeOptions, place: Place, link: Link, manager: Manager) -> None:
        self._options = options
        self._manager = manager
        self._place = place
        self._link = link
        self._exchanges = Exchanges(link, self._take_given, self._not_allowed)
        self._slots = trio.Semaphore(options.slots_count)
        self._executions: dict[tuple[str, int], LocalExecution] = {}
        self._heartbeat_s = _DEFAULT_HEARTBEAT_MS / 1000
        self._progressed = trio.Event()
        self._changed = trio.Event()
        self._is_stopping = False
        self._was_greeted = False
        self._streaming = trio.CancelScope()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Work until told to stop. Raises NodeError."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                nursery.start_soon(self._manager.run)
                # It waits for its server, however long: it has started when it can be stopped.
                self._manager.ready(f"connecting to {self._link.client.shown_url}")
                nursery.start_soon(self._keep_stream)
                nursery.start_soon(self._keep_reporting)
                nursery.start_soon(self._exchanges.run)
                async for _ in signals:
                    break
                await self._stop(signals)
            nursery.cancel_scope.cancel()
        _log.info("stopped")

    # The work stream

    async def _keep_stream(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        is_warned = False
        with self._streaming:
            while True:
                self._was_greeted = False
                try:
                    await self._register()
                    await self._read_stream()
                except ServerRefused as error:
                    if error.status in {401, 403}:
                        raise self._not_allowed(error) from error
                    if error.status in _NEVER_TAKEN:
                        raise NodeError(
                            f"{self._link.client.shown_url} does not take this node as it "
                            f"describes itself: {error}"
                        ) from error
                    problem = str(error)
                    if error.status == 404:
                        problem += (
                            " It was deleted, and can be restored; or it is another account's."
                        )
                except NotReached as error:
                    problem = str(error)
                if self._was_greeted:
                    backoff_s, is_warned = BACKOFF_FIRST_S, False
                log = _log.debug if is_warned else _log.warning
                log("not connected", server=self._link.client.shown_url, problem=problem)
                self._manager.status(f"not connected to {self._link.client.shown_url}")
                is_warned = True
                # Not all nodes at the same moment when a server comes back.
                await trio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311
                backoff_s = min(2 * backoff_s, BACKOFF_LIMIT_S)

    def _not_allowed(self, error: ServerRefused) -> NodeError:
        if error.status == 401:
            hint = "Is the token right, and has it not expired or been revoked?"
        else:
            hint = (
                "A node needs a token of the scope `node`; for --shared also `admin`; and a "
                "directory that another account's node has used cannot be used again."
            )
        return NodeError(f"{self._link.client.shown_url} refuses this node: {error}. {hint}")

    async def _register(self) -> None:
        options = self._options
        # Also now: a server may have been started after this node.
        await trio.to_thread.run_sync(options.refuse_beside_a_server)
        body = {
            "description": options.description,
            "languages": self._place.languages,
            "cpuCount": options.cpu_count,
            "memSize": options.memory_mb,
            "networkLatency": options.latency_ms,
            "privileged": options.privileged,
            "slots": options.slots_count,
            "shared": options.shared,
        }
        answer = await self._link.client.ask("POST", self._link.path, body, apart=True)
        if not answer.is_success:
            raise answer.refusal()

    async def _read_stream(self) -> None:
        async with self._link.client.open_stream(f"{self._link.path}/work") as events:
            async for event in events:
                try:
                    self._take(self._link.decoded(event))
                except (KeyError, TypeError) as error:
                    raise NotReached("it sent something that is not a message") from error
        raise NotReached("it ended the stream")

    def _take(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "hello":
                self._was_greeted = True
                self._heartbeat_s = message.get("heartbeatMs", _DEFAULT_HEARTBEAT_MS) / 1000
                self._link.lease_s = message.get("leaseMs", self._link.lease_s * 1000) / 1000
                self._link.client.expect_comments(message.get("keepAliveMs", 0) / 1000)
                self._link.exchange_version = message.get("exchange", 0)
                self._link.result = ResultLimits.of_server(
                    message.get("bodyLimitBytes", BODY_LIMIT_BYTES),
                    message.get("headLimitBytes", REQUEST_HEADERS_LIMIT_BYTES),
                )
                self._manager.status(f"connected to {self._link.client.shown_url}")
                _log.info(
                    "connected",
                    server=self._link.client.shown_url,
                    node=self._place.node_id,
                    languages=self._place.languages,
                    slots=self._options.slots_count,
                )
            case "run":
                self._start(message["task"]["id"], message["task"]["counter"])
            case "cancel":
                self._cancel(message["task"]["id"], message["task"]["counter"], "canceled")
            case "drain" | "disable" as word:
                _log.info("the server sends no more tasks", reason=word)
                for execution in [*self._executions.values()]:
                    if not execution.has_begun:
                        execution.cancel()
            case other:
                _log.debug("a message of an unknown type", type=other)

    def _start(self, execution_id: str, counter: int) -> None:
        key = (execution_id, counter)
        if self._is_stopping or key in self._executions:
            return
        # Some may end right now; the server counts them already as ended.
        if len(self._executions) >= 2 * self._options.slots_count + 2:
            _log.warning("more tasks than slots", task=execution_id)
            return
        self._nursery.start_soon(self._new(execution_id, counter).run, self._slots)

    def _new(self, execution_id: str, counter: int) -> LocalExecution:
        execution = LocalExecution(
            self._link, self._exchanges, execution_id, counter, self._progressed_now, self._over
        )
        self._executions[execution.key] = execution
        return execution

    def _take_given(self, given: GivenExecution, since: float) -> None:
        """Begin what the server has assigned unasked."""
        if (given.id, given.counter) in self._executions:
            return
        execution = self._new(given.id, given.counter)
        execution.take_given(given.assignment, since)
        if self._is_stopping:
            self._nursery.start_soon(self._give_back_all, [execution])
        else:
            self._nursery.start_soon(execution.run, self._slots)

    def _over(self, execution: LocalExecution) -> None:
        del self._executions[execution.key]
        self._changed.set()

    def _cancel(self, execution_id: str, counter: int, reason: str) -> None:
        execution = self._executions.get((execution_id, counter))
        if execution is None:
            self._exchanges.note_canceled(execution_id, counter)
        else:
            _log.info("a task is ended", task=execution_id, reason=reason)
            execution.cancel()

    # Reports

    def _progressed_now(self) -> None:
        self._progressed.set()

    async def _keep_reporting(self) -> None:
        while True:
            self._progressed = trio.Event()
            with trio.move_on_after(self._heartbeat_s):
                await self._progressed.wait()
            try:
                await self._report()
            except NotReached as error:
                _log.debug("a report got no answer", problem=str(error))
            except ServerRefused as error:
                if error.status == 401:
                    raise self._not_allowed(error) from error
                _log.debug("a report was refused", problem=str(error))
            now = trio.current_time()
            for execution in [*self._executions.values()]:
                if execution.is_assigned and now > execution.lease_end:
                    self._cancel(*execution.key, "its lease has run out")
            await trio.sleep(REPORT_MIN_INTERVAL_S)

    async def _report(self) -> None:
        begin = trio.current_time()
        reported = [one for one in self._executions.values() if one.is_assigned]
        running = [
            {"id": one.execution_id, "counter": one.counter, "progress": one.progress}
            for one in reported
        ]
        answer = await self._link.client.ask(
            "POST", f"{self._link.path}/report", {"running": running}
        )
        if not answer.is_success:
            raise answer.refusal()
        for execution in reported:
            execution.confirmed_at = begin
        for stale in answer.json().get("stop", ()):
            self._cancel(stale["id"], stale["counter"], "the server requested it")

    # The end

    async def _stop(self, signals: Any) -> None:
        self._is_stopping = True
        self._exchanges.has_room = False
        self._manager.stopping()
        self._streaming.cancel()
        for execution in [*self._executions.values()]:
            if not execution.has_begun:
                execution.cancel()
        _log.info("stopping", running=len(self._executions))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_for_second, signals, nursery.cancel_scope)
            with trio.move_on_after(self._options.grace_s):
                await self._wait_for_executions()
            nursery.cancel_scope.cancel()
        await self._give_back_all([*self._executions.values()])

    async def _give_back_all(self, left: list[LocalExecution]) -> None:
        async with trio.open_nursery() as nursery:
            for execution in left:
                execution.cancel()
                nursery.start_soon(self._give_back, execution)

    async def _wait_for_second(self, signals: Any, scope: trio.CancelScope) -> None:
        async for _ in signals:
            break
        scope.cancel()

    async def _wait_for_executions(self) -> None:
        while self._executions:
            self._changed = trio.Event()
            await self._changed.wait()

    async def _give_back(self, execution: LocalExecution) -> None:
        with trio.move_on_after(RETURN_TIMEOUT_S):
            await execution.give_back()
