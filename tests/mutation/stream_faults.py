"""Planted faults in logs that are streams: ownership, lease, takeover, doubts."""

from .fault import Fault, fault

OWNERSHIP = "persistence/streams/test_ownership.py"
LOG = "persistence/streams/test_stream_log.py"
POSTGRES = "persistence/streams/test_postgres_stream.py"

STREAM_FAULTS: tuple[Fault, ...] = (
    fault(
        "a new owner does not wait for the lease of the old one",
        "persistence/streams/ownership.py",
        "self.heard_ms + STREAM_TAKEOVER_WAIT_MS",
        "now_ms",
        OWNERSHIP,
        is_quick=True,
    ),
    fault(
        "an owner answers after it has sent its release",
        "persistence/streams/ownership.py",
        "self.in_flight.kind is FrameKind.RELEASED:\n",
        "self.in_flight.kind is FrameKind.OWNER:\n",
        OWNERSHIP,
    ),
    fault(
        "an owner releases before the lease of the one before it is over",
        "persistence/streams/ownership.py",
        "        assert frame.kind is not FrameKind.RELEASED or now_ms >= self.serves_from_ms\n",
        "",
        OWNERSHIP,
    ),
    fault(
        "another's frame is taken for ours",
        "persistence/streams/ownership.py",
        "        if frame != ours:\n",
        "        if frame.number != ours.number:\n",
        OWNERSHIP,
        is_quick=True,
    ),
    fault(
        "what was found after a doubt counts as durable",
        "persistence/streams/ownership.py",
        "        if self.durable_number < self.number:\n",
        "        if False:\n",
        OWNERSHIP,
    ),
    fault(
        "something else is sent while a frame is in doubt",
        "persistence/streams/stream_log.py",
        "            self._own = self._own.found(None)\n            return\n",
        "            self._own = self._own.found(None)\n"
        "            data = encode_stream_frame(frame._replace(time_ms=0))[0]\n"
        "            self._stream.append(frame.number, frame.epoch, data, is_claim=False)\n"
        "            return\n",
        LOG,
    ),
    fault(
        "the parts that an owner left behind count",
        "persistence/streams/chain.py",
        "        parts = [] if is_claim else [*self._parts]\n",
        "        parts = [*self._parts]\n",
        LOG,
    ),
    fault(
        "a stream is read without its chain of checksums",
        "persistence/streams/chain.py",
        "        if frame.previous_checksum != self.checksum:\n",
        "        if False:\n",
        LOG,
    ),
    fault(
        "an old owner is not fenced by its epoch",
        "persistence/streams/postgres_stream.py",
        "        WHERE grp = $1 AND epoch = $3\n            AND current",
        "        WHERE grp = $1\n            AND current",
        POSTGRES,
    ),
    fault(
        "a commit that does not wait for the disk is acknowledged",
        "persistence/streams/postgres_stream.py",
        "epoch = $3\n            AND current_setting('synchronous_commit') IN ('on', ",
        "epoch = $3\n            AND current_setting('synchronous_commit') IN ('on', 'off', ",
        POSTGRES,
    ),
    fault(
        "a commit that no standby has is acknowledged",
        "persistence/streams/postgres_stream.py",
        "result.command_tuples == 1 and not self._has_warned",
        "result.command_tuples == 1",
        POSTGRES,
    ),
    fault(
        "reads are answered although the lease is over",
        "shards/committer.py",
        "self.may_answer is None or self.may_answer()",
        "True",
        "shards/test_turns.py",
        is_quick=True,
    ),
)
