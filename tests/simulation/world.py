"""Everything around the server: one disk, one clock, a network that loses answers, and faults.

All randomness comes from the seed, by one generator for each actor, so that a change of one actor
does not change the others' luck.
"""

import errno
from collections.abc import Callable
from random import Random

import trio

from troth.core.commands import Command, CreatePromise, CreateSchedule
from troth.core.replies import Reply
from troth.persistence.errors import DataDirectoryUnwritable
from troth.persistence.simulated_files import SimulatedFiles
from troth.persistence.store import MemoryStore

from .ledger import Ledger
from .server import PushFailed, Server, Unreachable
from .trace import Trace

EPOCH_MS = 1_700_000_000_000


class JumpingClock:
    """The wall clock: runs with simulated time, is set forward, or stands still (set back)."""

    def __init__(self) -> None:
        self._offset_ms = EPOCH_MS
        self._last_ms = EPOCH_MS

    def now_ms(self) -> int:
        now_ms = self._offset_ms + int(trio.current_time() * 1000 + 1e-3)
        self._last_ms = max(self._last_ms, now_ms)
        return self._last_ms

    def jump(self, by_ms: int) -> None:
        """Set the clock. Set back, the server's time stands still until it has caught up."""
        self._offset_ms += by_ms


class World:
    """The surroundings of one run."""

    def __init__(
        self,
        seed: int,
        check_recovered: Callable[[Server, Ledger], None],
        *,
        reboots_after_disk_failure: bool = True,
        store: MemoryStore | None = None,
        trims_log: bool = True,
    ) -> None:
        self.seed = seed
        self.trace = Trace()
        self.ledger = Ledger()
        self.clock = JumpingClock()
        self.files = SimulatedFiles()
        self.store = store  # of checkpoints, if any are made; outlives every crash
        self.trims_log = trims_log
        self.server: Server | None = None
        self.is_calm = False  # no faults any more
        # After a failed sync a disk may hold less than what reading it shows, until a reboot.
        self.reboots_after_disk_failure = reboots_after_disk_failure
        self.lives_count = 0
        self.power_cuts_count = 0
        self.disk_failures_count = 0
        self.receive_push: Callable[[str, bytes], None] = _nobody
        self._check_recovered = check_recovered
        self._random = self.random("world")
        self._network = self.random("network")
        self._up = trio.Event()

    def random(self, name: str) -> Random:
        """A generator for one actor."""
        return Random(f"{self.seed}/{name}")

    # The server's lives

    async def run_server(self) -> None:
        """Keep starting the server, for ever; each end is followed by a restart."""
        while True:
            server = self._open()
            self.lives_count += 1
            self.trace.note("server", f"starts with {server.recovery.records_count} records")
            self._check_recovered(server, self.ledger)
            async with trio.open_nursery() as nursery:
                await nursery.start(server.run)
                self.server = server
                self._up.set()
            self.server = None
            self._up = trio.Event()
            self._after(server)
            await trio.sleep(self._random.uniform(0.1, 3))

    def _open(self) -> Server:
        """Start a life; recovery may be cut short by another power cut or a failing disk."""
        while True:
            if not self.is_calm and self._random.random() < 0.15:
                self.files.fail("sync", skip_count=self._random.randrange(4))
            try:
                return self.open_server()
            except DataDirectoryUnwritable as error:
                self.trace.note("server", f"refuses to start: {type(error).__name__}")
                if self.is_calm:
                    raise
                self.files = self.files.crash(self._random)

    def open_server(self) -> Server:
        """Open the disk as it is now. Raises DataDirectoryError."""
        return Server(
            self.files,
            self.clock,
            self._random,
            self._deliver,
            self.store,
            trims_log=self.trims_log,
        )

    def _after(self, server: Server) -> None:
        if server.failure is not None:
            self.disk_failures_count += 1
            self.trace.note("server", f"stopped: {server.failure}")
        reboots = self.reboots_after_disk_failure or self._random.random() < 0.5
        if server.has_lost_power or (server.failure is not None and reboots):
            self.power_cuts_count += 1
            self.files = self.files.crash(self._random)
            self.trace.note("disk", f"after the power cut: {self.files.used_bytes()} bytes")
        else:
            self.files.end_process()
            self.files.crash_before_operation = None

    # The network

    async def ask(self, who: str, command: Command, random: Random) -> Reply:
        """Send a request. Raises Unreachable if there is no answer."""
        ledger = self.ledger
        await trio.sleep(random.expovariate(1 / 0.002))
        server = self.server
        if server is None:
            await trio.sleep(0.2)
            raise Unreachable
        subject = getattr(command, "id", getattr(command, "promise_id", ""))
        known = ledger.finals.get(subject)
        existed = subject in ledger.created
        answer_delay_s = random.expovariate(1 / 0.002)
        reply = await server.ask(command, answer_delay_s)
        if not self.is_calm and self._network.random() < 0.03:
            self.trace.note(who, f"{describe(command)}: the answer is lost")
            raise Unreachable
        self.trace.note(who, f"{describe(command)}: {reply.code.name}")
        ledger.answered(command, reply, known, existed)
        return reply

    async def insist(self, who: str, command: Command, random: Random) -> Reply:
        """Send a request again and again until there is an answer. It must be repeatable."""
        while True:
            try:
                return await self.ask(who, command, random)
            except Unreachable:
                await trio.sleep(random.uniform(0.1, 1))

    async def server_is_up(self) -> Server:
        """Wait for a running server."""
        while self.server is None:
            await self._up.wait()
        return self.server

    async def _deliver(self, url: str, body: bytes) -> None:
        """A push on its way: it may be late, refused, or arrive and look refused."""
        await trio.sleep(self._network.expovariate(1 / 0.01))
        luck = 1.0 if self.is_calm else self._network.random()
        if luck < 0.1:
            raise PushFailed("connection refused")
        if luck < 0.15:
            await trio.sleep(3)
        self.receive_push(url, body)
        if 0.2 <= luck < 0.3:
            self.receive_push(url, body)  # twice: networks do that
        if luck < 0.2:
            raise PushFailed("the answer was lost")

    # Faults

    async def make_trouble(self, duration_s: float, mean_pause_s: float = 4) -> None:
        """Inject faults for so long; afterwards all is calm and the server runs."""
        random = self.random("faults")
        ends = trio.current_time() + duration_s
        while trio.current_time() < ends:
            await trio.sleep(random.expovariate(1 / mean_pause_s))
            server = await self.server_is_up()
            if not server.is_over:
                fault = random.choice(FAULTS)
                self.trace.note("fault", fault.__name__)
                fault(self, server, random)
        server = await self.server_is_up()
        self.is_calm = True
        self.trace.note("fault", "a last power cut, then no more")
        server.lose_power()  # the disk that comes back knows of no other fault


Fault = Callable[[World, Server, Random], None]


def cut_power(world: World, server: Server, random: Random) -> None:
    """Between two operations of the disk."""
    server.lose_power()


def cut_power_while_writing(world: World, server: Server, random: Random) -> None:
    """In one of the next operations of the disk."""
    world.files.crash_before_operation = world.files.operations_count + random.randint(1, 6)


def cut_power_within_a_batch(world: World, server: Server, random: Random) -> None:
    """When one shard's records are on disk and another's, which rest on them, are not."""
    if server.writer is not None:
        server.writer.is_to_lose_power_within_a_batch = True


def kill(world: World, server: Server, random: Random) -> None:
    """The process goes, the machine stays."""
    server.kill()


def fail_disk(world: World, server: Server, random: Random) -> None:
    """One of the next operations fails, and the one after it would succeed."""
    operation = random.choice(("sync", "write_at", "create", "rename"))
    error = random.choice((errno.EIO, errno.ENOSPC))
    world.files.fail(operation, error, skip_count=random.randrange(5))


def stop(world: World, server: Server, random: Random) -> None:
    """A clean stop, in time or not."""
    server.begin_stop(patience_s=5)


def jump(world: World, server: Server, random: Random) -> None:
    """The clock is set."""
    world.clock.jump(random.choice((-20_000, -1_000, 1_000, 30_000)))


def change_pace(world: World, server: Server, random: Random) -> None:
    """The disk becomes slow, or fast again."""
    if server.writer is not None:
        server.writer.slowness = random.choice((1.0, 10.0, 400.0))


FAULTS: tuple[Fault, ...] = (
    cut_power,
    cut_power_while_writing,
    cut_power_within_a_batch,
    kill,
    fail_disk,
    stop,
    jump,
    change_pace,
)


def _nobody(url: str, body: bytes) -> None:
    raise AssertionError(f"a push to {url}, but nobody receives")


def describe(command: Command) -> str:
    """A command for the trace."""
    name = type(command).__name__
    if isinstance(command, CreatePromise | CreateSchedule):
        return f"{name} {command.id}"
    fields = ("id", "promise_id", "resource_id", "counter", "process_id", "execution_id")
    return " ".join([name, *(str(getattr(command, field, "")) for field in fields)]).rstrip()
