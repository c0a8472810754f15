"""The engine of a simulated cluster: one leader at a time, elections, and clients that are cut off.

As JetStream does, a leader takes a proposal and acknowledges it when most of its servers have it.
While a proposal is under way another one in its place is refused, also the same again. When a
leader dies there is none for some seconds, and of what was under way some stands in the stream and
some does not. A leader that was cut off shows the stream as it was, for up to 15 s. There is no
fence but the expected number: a claim is a frame like others.

For half of the seeds it is as PostgreSQL is instead: an owner of an earlier epoch is refused, and
the end of the stream may be shown before a standby has it. That is not acknowledged, and is gone if
the leader is lost before something later is acknowledged.

All of it happens in simulated time, whenever somebody asks; clients wait by `wait_s`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, final

import trio

from tests.simulation.faults import Faults
from tests.simulation.ledger import require
from tests.twins.simulated_keeping import SimulatedKeeping
from tests.twins.simulated_stream import SimulatedEngine
from troth.core.limits import STREAM_ANSWER_LIMIT_MS
from troth.persistence.streams.chain import Chain
from troth.persistence.streams.stream import SnapshotDescription, StreamUnreachable
from troth.persistence.streams.stream_frames import FrameKind
from troth.persistence.wal.log import LogRecord

from .lock_step import wait_s

ANSWER_LIMIT_S: Final = STREAM_ANSWER_LIMIT_MS / 1000
MESSAGE_LIMIT_BYTES: Final = 1 << 20
ELECTION_S: Final = (4.0, 9.0)
CUT_OFF_LEADER_LIMIT_S: Final = 15.0
_LATENCY_S: Final = 0.001


@dataclass(frozen=True)
class _Proposal:
    frame: bytes
    number: int
    epoch: int
    is_claim: bool
    lands_s: float
    is_replicated: bool


@dataclass(frozen=True)
class _End:
    """An end of the stream, to go back to."""

    chain: Chain
    frames_count: int
    records_count: int
    owners_count: int
    epoch: int


@final
class ClusterEngine:
    """What stands in the stream, what is on its way, and who leads."""

    def __init__(self, faults: Faults, random: Random) -> None:
        self.faults = faults
        self.random = random
        self.kept = SimulatedEngine()
        """The frames, in a shape that `SimulatedKeeping` trims."""
        self.keeping = SimulatedKeeping(self.kept)
        self.records: list[LogRecord] = []
        """All records that stand in the stream, also those that were trimmed."""
        self.owners: list[tuple[int, int]] = []
        """For each owner the number of its claim, and the time in the frame before."""
        self.is_as_postgres = random.random() < 0.5
        self.lost_count = 0
        """How many frames were shown and then lost; none of them was acknowledged."""
        self.elections_count = 0
        self.refusals_count = 0
        self._chain = Chain("the whole stream")
        self._under_way: list[_Proposal] = []
        self._leads_again_s = 0.0
        self._old_leader_until_s = 0.0
        self._old_frames: list[bytes] = []
        self._has_old_leader: set[str] = set()
        self._replicated = self._end()

    @property
    def frames(self) -> list[bytes]:
        """All frames, those that were trimmed included."""
        return self.kept.frames

    @property
    def told_ms(self) -> int:
        """The time of the last frame that stays, whatever happens."""
        return self._replicated.chain.time_ms

    def settle(self) -> None:
        """Let land what should have landed by now."""
        while self._under_way and self._under_way[0].lands_s <= trio.current_time():
            self._land(self._under_way.pop(0))

    def _end(self) -> _End:
        chain = self._chain
        copied = replace(chain, shard_sequences={**chain.shard_sequences}, _parts=[*chain._parts])
        counts = (len(self.frames), len(self.records), len(self.owners))
        return _End(copied, *counts, self.kept.epoch)

    def _lose_end(self) -> None:
        """Lose what only the leader had."""
        end = self._replicated
        self.lost_count += len(self.frames) - end.frames_count
        del self.frames[end.frames_count :]
        del self.records[end.records_count :]
        del self.owners[end.owners_count :]
        self._chain, self.kept.epoch = end.chain, end.epoch
        self._replicated = self._end()

    def _is_fenced(self, epoch: int, *, is_claim: bool) -> bool:
        return self.is_as_postgres and epoch != self.kept.epoch + is_claim

    def _land(self, proposal: _Proposal) -> None:
        if self._is_fenced(proposal.epoch, is_claim=proposal.is_claim):
            return
        require(proposal.number == len(self.frames) + 1, "the engine takes a number once")
        before_ms = self._chain.time_ms
        frame, records = self._chain.read(proposal.number, proposal.frame)
        require(frame.time_ms >= before_ms, "an owner's time is lower than in the frame before")
        self.frames.append(proposal.frame)
        self.records += records
        if frame.kind is FrameKind.OWNER:
            self.kept.epoch = frame.epoch
            self.owners.append((frame.number, before_ms))
        if proposal.is_replicated:
            self._replicated = self._end()

    def elect(self) -> None:
        """Lose the leader; a new one is there some seconds later."""
        self.settle()
        random, now_s = self.random, trio.current_time()
        self._old_frames = [*self.frames]
        for proposal in self._under_way[: random.randint(0, len(self._under_way))]:
            self._land(proposal)
        self._under_way.clear()
        self._lose_end()
        self._leads_again_s = now_s + random.uniform(*ELECTION_S)
        self._old_leader_until_s = now_s
        if random.random() < 0.6:  # it was cut off, and does not know
            self._old_leader_until_s += random.uniform(ELECTION_S[0], CUT_OFF_LEADER_LIMIT_S)
        self._has_old_leader = {name for name in "abcdefgh" if random.random() < 0.5}
        self.elections_count += 1

    def shows_old(self, node: str) -> bool:
        """Whether a node talks to a leader that was cut off."""
        return node in self._has_old_leader and trio.current_time() < self._old_leader_until_s

    @property
    def has_leader(self) -> bool:
        """Whether there is a leader."""
        return trio.current_time() >= self._leads_again_s

    def shown(self, node: str) -> list[bytes]:
        """The frames that a node is shown. Raises StreamUnreachable."""
        self.settle()
        if self.shows_old(node):
            return self._old_frames
        if not self.has_leader:
            raise StreamUnreachable("there is no leader")
        return self.frames

    def propose(
        self,
        number: int,
        epoch: int,
        frame: bytes,
        after_s: float,
        *,
        is_claim: bool,
        is_replicated: bool,
    ) -> bool:
        """Take a frame on its way; whether it was taken."""
        self.settle()
        if self._is_fenced(epoch, is_claim=is_claim):
            return False
        require(len(frame) <= MESSAGE_LIMIT_BYTES, "a frame is larger than the engine takes")
        if number != len(self.frames) + len(self._under_way) + 1:
            self.refusals_count += 1
            return False
        last_s = self._under_way[-1].lands_s if self._under_way else 0.0
        lands_s = max(trio.current_time() + after_s, last_s)
        self._under_way.append(_Proposal(frame, number, epoch, is_claim, lands_s, is_replicated))
        return True


@final
class EngineClient:
    """A node's connection to the stream. `is_cut` says whether it is cut off from the engine."""

    name = "a simulated stream"
    behind_ms = 20_000

    def __init__(self, engine: ClusterEngine, node: str, is_cut: Callable[[], bool]) -> None:
        self._engine = engine
        self._node = node
        self._is_cut = is_cut
        self.has_rotted = False
        """Whether it was shown something that had rotted."""

    def found(self, identity: bytes) -> bytes:
        self._pass()
        kept = self._engine.kept
        if kept.identity is None:
            kept.identity = identity
        return kept.identity

    def _pass(self) -> None:
        """Let a message pass, one way. Raises StreamUnreachable if it does not arrive."""
        wait_s(self._engine.random.expovariate(1 / _LATENCY_S))
        if self._is_cut():
            wait_s(ANSWER_LIMIT_S)
            raise StreamUnreachable("no answer")

    def append(self, number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        engine, faults = self._engine, self._engine.faults
        self._pass()
        if engine.shows_old(self._node) or faults.strikes("append_lost"):
            wait_s(ANSWER_LIMIT_S)
            raise StreamUnreachable("no answer")
        engine.settle()
        if not engine.has_leader:
            raise StreamUnreachable("there is no leader")
        takes_s = engine.random.expovariate(1 / (2 * _LATENCY_S))
        if faults.strikes("append_late"):
            takes_s = faults.random("append_late").choice((0.05, 1, 4, 8))
        is_replicated = not (engine.is_as_postgres and faults.strikes("append_unreplicated"))
        is_taken = engine.propose(
            number, epoch, frame, takes_s, is_claim=is_claim, is_replicated=is_replicated
        )
        if not is_taken:
            self._pass()
            return False
        if faults.strikes("append_refused"):
            self._pass()
            return False  # it was sent again by what carries it, and its own proposal was counted
        elections_count = engine.elections_count
        wait_s(min(takes_s, ANSWER_LIMIT_S))
        if faults.strikes("append_answer_late"):
            wait_s(faults.random("append_answer_late").choice((1.0, 2.5, 4.5)))
        self._pass()
        is_lost = faults.strikes("append_answer_lost")
        if is_lost or takes_s > ANSWER_LIMIT_S or engine.elections_count != elections_count:
            raise StreamUnreachable("no answer")
        engine.settle()
        return is_replicated and len(engine.frames) >= number

    def read(self, from_number: int) -> list[tuple[int, bytes]]:
        engine, faults = self._engine, self._engine.faults
        self._pass()
        trimmed_count = engine.kept.trimmed_count
        shown = engine.shown(self._node)
        first = max(from_number, trimmed_count + 1)
        limit_count = engine.random.choice((1, 3, 100))
        some = list(enumerate(shown[first - 1 : first - 1 + limit_count], first))
        if some and faults.strikes("replica_rots"):
            number, frame = some[-1]
            place = faults.random("replica_rots").randrange(len(frame))
            some[-1] = (number, frame[:place] + bytes([frame[place] ^ 4]) + frame[place + 1 :])
            self.has_rotted = True
        self._pass()
        return some

    def first(self) -> int:
        engine = self._engine
        self._pass()
        shown = engine.shown(self._node)
        return engine.kept.trimmed_count + 1 if len(shown) > engine.kept.trimmed_count else 0

    def close(self) -> None:
        """Do nothing."""


@final
class KeepingClient:
    """A node's connection to what the engine keeps next to the stream."""

    def __init__(self, engine: ClusterEngine, is_cut: Callable[[], bool]) -> None:
        self._engine = engine
        self._keeping = engine.keeping
        self._is_cut = is_cut

    def _pass(self) -> None:
        wait_s(self._engine.random.expovariate(1 / _LATENCY_S))
        if self._is_cut():
            wait_s(ANSWER_LIMIT_S)
            raise StreamUnreachable("no answer")
        self._keeping.now_ms = int(trio.current_time() * 1000)

    def note_reader(self, node: str, number: int, *, is_starting: bool = False) -> None:
        self._pass()
        self._keeping.note_reader(node, number, is_starting=is_starting)

    def needed_number(self) -> int | None:
        self._pass()
        return self._keeping.needed_number()

    def trim(self, number: int, epoch: int) -> int:
        self._pass()
        self._engine.settle()
        return self._keeping.trim(number, epoch)

    def snapshot(self) -> SnapshotDescription | None:
        self._pass()
        return self._keeping.snapshot()

    def begin_snapshot(self, epoch: int) -> int:
        self._pass()
        return self._keeping.begin_snapshot(epoch)

    def add_piece(self, place: int, identifier: int, number: int, piece: bytes, epoch: int) -> None:
        self._pass()
        self._keeping.add_piece(place, identifier, number, piece, epoch)

    def piece(self, place: int, identifier: int, number: int) -> bytes | None:
        self._pass()
        return self._keeping.piece(place, identifier, number)

    def finish_snapshot(self, description: SnapshotDescription, epoch: int) -> None:
        self._pass()
        self._keeping.finish_snapshot(description, epoch)

    def close(self) -> None:
        """Do nothing."""
