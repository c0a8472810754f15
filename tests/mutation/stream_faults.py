"""Planted faults in logs that are streams: ownership, lease, takeover, doubts."""

from .fault import Fault, fault

OWNERSHIP = "persistence/streams/test_ownership.py"
LOG = "persistence/streams/test_stream_log.py"
POSTGRES = "persistence/streams/test_postgres_stream.py"
ENGINES = "persistence/streams/test_engines.py"
JETSTREAM = "persistence/streams/test_jetstream_stream.py"
STORAGE = "shards/streams/test_stream_storage.py"

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
        "persistence/streams/postgres_tables.py",
        "WHERE grp = {self.group} AND epoch = $2 AND place",
        "WHERE grp = {self.group} AND place",
        POSTGRES,
    ),
    fault(
        "a commit that does not wait for the disk is acknowledged",
        "persistence/streams/postgres_tables.py",
        "IN ('on', 'remote_apply')",
        "IN ('on', 'off', 'remote_apply')",
        POSTGRES,
    ),
    fault(
        "a commit that no standby has is acknowledged",
        "persistence/streams/postgres_stream.py",
        "return not self._connection.has_warned",
        "return True",
        POSTGRES,
    ),
    fault(
        "a frame that comes late is taken where its table was emptied",
        "persistence/streams/postgres_tables.py",
        "                AND {_WAITS_FOR_DISK} AND {self._stands(place)}\n            FOR",
        "                AND {_WAITS_FOR_DISK}\n            FOR",
        ENGINES,
    ),
    fault(
        "an old owner trims",
        "persistence/streams/postgres_tables.py",
        "AND epoch = {epoch:d} AND place",
        "AND place",
        POSTGRES,
    ),
    fault(
        "the table that is appended to is emptied",
        "persistence/streams/postgres_tables.py",
        "AND epoch = {epoch:d} AND place <> {place} FOR",
        "AND epoch = {epoch:d} FOR",
        POSTGRES,
    ),
    fault(
        "the last frame of a table does not count when it is emptied",
        "persistence/streams/postgres_tables.py",
        "WHERE number >= {number:d}",
        "WHERE number > {number:d}",
        POSTGRES,
    ),
    fault(
        "frames are trimmed that another node has not read",
        "shards/streams/stream_upkeep.py",
        "min(needed_number, newest",
        "min(newest",
        STORAGE,
        is_quick=True,
    ),
    fault(
        "frames are trimmed that a snapshot needs",
        "shards/streams/stream_upkeep.py",
        ", held_number or newest.mark.number)",
        ")",
        STORAGE,
    ),
    fault(
        "a snapshot counts before it was read back",
        "shards/streams/stream_snapshots.py",
        "    for _ in read_pieces(keeping, description):\n        pause()\n",
        "",
        STORAGE,
    ),
    fault(
        "a snapshot's mark is later than its rows",
        "shards/streams/stream_upkeep.py",
        "newest.mark.next_sequence == mark.next_sequence:\n            newest",
        "newest.mark.next_sequence <= mark.next_sequence:\n            newest",
        STORAGE,
    ),
    fault(
        "a node that was overtaken by trimming goes on with a gap",
        "shards/streams/stream_storage.py",
        "self.noted.number >= first_number",
        "self.noted.number >= 0",
        STORAGE,
    ),
    fault(
        "an owner is replaced because the engine was away",
        "persistence/streams/stream_log.py",
        "return max(self._own.heard_ms, self._reachable_since_ms)",
        "return self._own.heard_ms",
        LOG,
        is_quick=True,
    ),
    fault(
        "a node that stands by does not say how far it is",
        "shards/streams/stream_storage.py",
        "    self.keeping.note_reader(self.node, self.noted.number)\n            except",
        "    pass\n            except",
        STORAGE,
    ),
    fault(
        "time goes back at a takeover",
        "shards/clock.py",
        "self._last_ms = max(self._last_ms, time_ms)",
        "self._last_ms = self._wall_ms()",
        STORAGE,
    ),
    fault(
        "reads are answered although the lease is over",
        "shards/committer.py",
        "self.may_answer is None or self.may_answer()",
        "True",
        "shards/test_turns.py",
        is_quick=True,
    ),
    fault(
        "JetStream is sent frames without the number that has to be the last",
        "persistence/streams/jetstream_stream.py",
        'headers = {"Nats-Expected-Last-Sequence": str(number - 1), EPOCH',
        "headers = {EPOCH",
        ENGINES,
    ),
    fault(
        "what JetStream refuses counts as appended",
        "persistence/streams/jetstream_stream.py",
        "            if error.number == WRONG_LAST_SEQUENCE:\n                return False\n",
        "            if error.number == WRONG_LAST_SEQUENCE:\n                return True\n",
        ENGINES,
    ),
    fault(
        "a stream in JetStream that could lose something is used",
        "persistence/streams/jetstream_layout.py",
        'if key != "metadata" and (has',
        "if not key and (has",
        JETSTREAM,
    ),
    fault(
        "a stream in JetStream that was deleted is made again",
        "persistence/streams/jetstream_layout.py",
        '            if notes.read("founded") is not None:\n',
        "            if False:\n",
        JETSTREAM,
    ),
    fault(
        "an owner in JetStream that was deposed changes which snapshot is the newest",
        "persistence/streams/jetstream_keeping.py",
        'orjson.dumps({"epoch": epoch, **fields}), revision)',
        'orjson.dumps({"epoch": epoch, **fields}))',
        JETSTREAM,
    ),
    fault(
        "an owner in JetStream that was deposed removes the new one's snapshot",
        "persistence/streams/jetstream_keeping.py",
        "if place <= epoch and (place",
        "if (place",
        JETSTREAM,
    ),
    fault(
        "a server that acknowledges what no disk has keeps the log",
        "persistence/streams/jetstream_servers.py",
        'config.get("sync_always") is not True:',
        'config.get("sync_always") is False:',
        "persistence/streams/test_jetstream_connection.py",
    ),
)
