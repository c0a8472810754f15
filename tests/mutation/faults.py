"""The planted faults, as data: what to change where, and which tests must notice.

Here are those of promises, tasks, schedules, locks and what keeps them; the others have modules of
their own. `FAULTS` are all.
"""

from .bulk_faults import BULK_FAULTS
from .cluster_faults import CLUSTER_FAULTS
from .completion_faults import COMPLETION_FAULTS
from .copy_faults import COPY_FAULTS
from .fault import Fault, fault
from .function_faults import FUNCTION_FAULTS
from .home_faults import HOME_FAULTS
from .mesh_faults import MESH_FAULTS
from .node_faults import NODE_FAULTS
from .operator_faults import OPERATOR_FAULTS
from .process_faults import PROCESS_FAULTS
from .question_faults import QUESTION_FAULTS
from .simulated_faults import SIMULATED_FAULTS
from .trace_faults import TRACE_FAULTS
from .waiting_faults import WAITING_FAULTS
from .web_faults import WEB_FAULTS
from .workflow_faults import WORKFLOW_FAULTS

LOG, SEGMENTS, RECOVERY = (
    f"persistence/wal/{name}.py" for name in ("segmented_log", "segments", "recovery")
)
CRASHES, DAMAGE = "persistence/test_crashes.py", "persistence/test_damage.py"
COMPLETIONS = "core/state/completions.py"
OUTBOX, SIMULATION = "shards/test_outbox.py", "simulation/test_simulation.py"
REPLAY, CORE_MODEL = "core/test_replay.py", "core/test_against_model.py"
MODEL, SHARD = "model/test_differential.py", "shards/test_shard.py"

SERVER_FAULTS: tuple[Fault, ...] = (
    # The log on disk
    fault(
        "a batch is acknowledged without its fdatasync",
        LOG,
        "self._file.write_durably(self._used_bytes, frame)",
        "self._file.write_at(self._used_bytes, frame)",
        CRASHES,
        is_quick=True,
    ),
    fault(
        "after a failed fdatasync the log goes on",
        LOG,
        "        if self._failure is not None:\n            raise self._failure",
        "        if False:\n            raise self._failure",
        CRASHES,
    ),
    fault(
        "a new segment's name is not synced (the directory's fsync)",
        SEGMENTS,
        "segment_path(log_path, first_sequence))\n    files.sync_directory(log_path)",
        "segment_path(log_path, first_sequence))",
        CRASHES,
        is_quick=True,
    ),
    fault(
        "a segment gets its name before its header is on disk",
        SEGMENTS,
        "encode_segment_header(header))\n    file.sync()",
        "encode_segment_header(header))",
        CRASHES,
    ),
    fault(
        "what recovery read from the kernel's cache is not written again",
        LOG,
        "range(0, end.kept_bytes, _SETTLE_BYTES)",
        "range(0, 0, _SETTLE_BYTES)",
        "catalogue/test_disk.py",
    ),
    fault(
        "removals of a trim are not synced one by one",
        LOG,
        "segment.first_sequence))\n                self._files.sync_directory(self._log_path)\n",
        "segment.first_sequence))\n",
        CRASHES,
    ),
    fault(
        "trimming takes one segment too many",
        LOG,
        "self._segments[1].first_sequence <= to_sequence",
        "self._segments[0].first_sequence <= to_sequence",
        "persistence/test_segmented_log.py",
        CRASHES,
    ),
    fault(
        "the checksum of a batch is not checked",
        "persistence/wal/frames.py",
        "if end > len(data) or google_crc32c.value(data[rest_offset:end]) != checksum:",
        "if end > len(data):",
        "persistence/test_frames.py",
        DAMAGE,
        is_quick=True,
    ),
    fault(
        "the chain of checksums is not checked",
        RECOVERY,
        "if frame.previous_checksum != self._previous_checksum:",
        "if False:",
        DAMAGE,
    ),
    fault(
        "a batch of another epoch is accepted",
        RECOVERY,
        "if frame.epoch != header.epoch:",
        "if False:",
        DAMAGE,
    ),
    fault(
        "a segment of another data directory is accepted",
        RECOVERY,
        "if header.data_id != self._data_id:",
        "if False:",
        DAMAGE,
    ),
    fault(
        "damage in the middle is cut like a torn end",
        RECOVERY,
        "if later is not None:",
        "if False:",
        DAMAGE,
        is_quick=True,
    ),
    fault(
        "a shard's numbers in the log may repeat",
        RECOVERY,
        "if shard_sequence <= last.get(shard, 0):",
        "if False:",
        DAMAGE,
    ),
    fault(
        "the writer reports a batch durable before it appends it",
        "persistence/wal/writer.py",
        "            last_sequence = self._append(joined)\n",
        "            self._on_durable(self._log.next_sequence + len(joined) - 1)\n"
        "            last_sequence = self._append(joined)\n",
        "persistence/test_writer.py",
    ),
    fault(
        "the second of two processes opens a locked directory",
        "persistence/files.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "persistence/test_files.py",
        "persistence/test_data_directory.py",
    ),
    # Checkpoints
    fault(
        "the checksum of a checkpoint's row is not checked",
        "persistence/checkpoints/rows.py",
        "if value[:4] != _checksum(table, key, content):",
        "if False:",
        "persistence/test_rows.py",
        is_quick=True,
    ),
    fault(
        "a checkpoint does not wait for the log",
        "shards/upkeep/checkpointer.py",
        "            await self._committer.wait_durable()\n",
        "",
        "shards/test_checkpointer.py",
    ),
    fault(
        "the log is trimmed beyond the checkpoint",
        "shards/upkeep/checkpointer.py",
        "self._trim(position + 1)",
        "self._trim(position + 1_000_000)",
        "catalogue/test_disk.py",
    ),
    fault(
        "a task that changed after its capture leaves memory",
        "core/state/eviction.py",
        "if task is None or not task.is_final or task_id in state.changes.tasks:",
        "if task is None or not task.is_final:",
        "core/test_retention.py",
    ),
    fault(
        "evicted promises are not added to the filter of what is stored",
        "persistence/checkpoints/writing.py",
        "    yield from id_writes(ids, add_ids)\n",
        "    yield from id_writes(ids, lambda _: None)\n",
        "persistence/test_stored_ids.py",
        is_quick=True,
    ),
    fault(
        "finished tasks are not added to the filter of what is stored",
        "persistence/checkpoints/writing.py",
        "        add_ids([rows.id_head(key) for key in keys])\n        yield Rows(rows.TASK_IDS",
        "        yield Rows(rows.TASK_IDS",
        "persistence/test_stored_ids.py",
    ),
    fault(
        "what is written while the filter is filled is not in it",
        "persistence/checkpoints/id_filter.py",
        "filters.append(self._filling)",
        "pass",
        "persistence/test_stored_ids.py",
    ),
    fault(
        "after a restart the filter is used before it is complete",
        "persistence/checkpoints/id_filter.py",
        "IdFilter(ROOM_MIN_COUNT, make_bits) if is_empty else IdFilter.of_everything()",
        "IdFilter(ROOM_MIN_COUNT, make_bits)",
        "shards/test_cold_reads.py",
    ),
    fault(
        "a filter that has grown looks at its newest layer only",
        "persistence/checkpoints/id_filter.py",
        "for bits, bits_count in layers:",
        "for bits, bits_count in layers[:1]:",
        "persistence/test_id_filter.py",
    ),
    # Shards
    fault(
        "answers do not wait for the disk",
        "shards/turns.py",
        "if committer.is_answerable(turn.position) and not self._held_back:",
        "if True:",
        SHARD,
        is_quick=True,
    ),
    fault(
        "reads do not wait for what they saw",
        "shards/turns.py",
        "if committer.is_answerable(position):",
        "if True:",
        SHARD,
        SIMULATION,
    ),
    fault(
        "those who wait when the log fails are never told",
        "shards/shards.py",
        "        self._turns.refuse_all(StorageFailed())\n",
        "",
        SHARD,
    ),
    fault(
        "a message between shards is acknowledged before it is durable",
        "shards/shard.py",
        "turn.acknowledgments[both] = max(sequence, turn.acknowledgments.get(both, 0))",
        "self._post(source, Acknowledge(self.index, sequence), None)",
        SHARD,
    ),
    fault(
        "messages leave before the answer that caused them",
        "shards/held.py",
        "        if self.is_released:\n",
        "        if True:\n",
        SHARD,
        "http/sockets/test_application.py",
    ),
    fault(
        "timers fire a slot late",
        "shards/wheel.py",
        "if found is None or found[1] > now_ms:",
        "if found is None or found[1] >= now_ms:",
        "shards/test_wheel.py",
    ),
    fault(
        "a stream that hangs up takes its messages with it",
        "shards/delivery/polls.py",
        "            self._listener.returned(items)",
        "            pass",
        "shards/test_polls.py",
    ),
    fault(
        "a delivery is not reported",
        "shards/delivery/delivery.py",
        "        self._report(shipment.sent())",
        "        pass",
        "shards/test_delivery_push.py",
    ),
    fault(
        "a failed delivery is not reported",
        "shards/delivery/delivery.py",
        "            self._report(report)",
        "            pass",
        "shards/test_delivery_push.py",
    ),
    # The state machine
    fault(
        "a message between shards is applied twice",
        "core/decisions/between_shards.py",
        "    if command.sequence > applied:",
        "    if True:",
        OUTBOX,
        is_quick=True,
    ),
    fault(
        "an acknowledgement between shards is dropped",
        "core/decisions/between_shards.py",
        "if first is not None and first <= command.sequence:",
        "if False:",
        OUTBOX,
        SIMULATION,
    ),
    fault(
        "messages between shards are not sent again after a crash",
        "core/machine.py",
        "        state.messages.extend(state.outbox)\n",
        "",
        OUTBOX,
        SIMULATION,
    ),
    fault(
        "the timers of promises are forgotten in a crash",
        "core/machine.py",
        "state.promises.timeouts()",
        "((), ())",
        REPLAY,
        CORE_MODEL,
    ),
    fault(
        "the timers of locks are forgotten in a crash",
        "core/machine.py",
        "lock.resource_id), state.end_of_lock(lock)",
        "lock.resource_id), None",
        REPLAY,
        CORE_MODEL,
    ),
    fault(
        "the timers of schedules are forgotten in a crash",
        "core/machine.py",
        "yield (SCHEDULE_TIMER, schedule.id), schedule.due_on",
        "yield (SCHEDULE_TIMER, schedule.id), None",
        REPLAY,
        SIMULATION,
    ),
    fault(
        "tasks that waited to be sent are forgotten in a crash",
        "core/machine.py",
        "        state.touched_roots.update(dict.fromkeys(state.roots))\n",
        "",
        "core/test_dispatch.py",
        SIMULATION,
    ),
    fault(
        "a promise lives a millisecond too long",
        "core/deciding.py",
        "if promise.timeout <= now_ms and",
        "if promise.timeout < now_ms and",
        MODEL,
        is_quick=True,
    ),
    fault(
        "a lease lives a millisecond too long",
        "core/deciding.py",
        "        deadline = task.deadline\n        if deadline is None or deadline > until_ms:",
        "        deadline = task.deadline\n        if deadline is None or deadline >= until_ms:",
        MODEL,
    ),
    fault(
        "a lock lives a millisecond too long",
        "core/decisions/locks.py",
        "if lock is None or lock.expires_at > now_ms:",
        "if lock is None or lock.expires_at >= now_ms:",
        "core/test_leases.py",
    ),
    fault(
        "timers do not look at the time",
        "shards/shard.py",
        "if done_count and not done_count % slice_count and not self._pass.has_time_for_own():",
        "if False:",
        "shards/test_passes.py",
    ),
    fault(
        "commands do not look at the time",
        "shards/shard.py",
        "if entries and left_count and self._has_time(entries):",
        "if entries and left_count:",
        "shards/test_passes.py",
    ),
    fault(
        "internal commands wait in the mailbox of clients",
        "shards/shard.py",
        "        self._internal.append((command, None, 0, held))",
        "        self._mailbox.append((command, None, 0, held))",
        "shards/test_shard.py",
        "shards/test_passes.py",
    ),
    fault(
        "a clock that was set back leaves the wheels as they are",
        "shards/shard.py",
        "            self._is_wheel_stale = True",
        "            self._is_wheel_stale = False",
        "catalogue/test_time.py",
    ),
    fault(
        "a small step back of the clock is followed",
        "shards/clock.py",
        "if step_ms < -STAND_STILL_LIMIT_MS:",
        "if step_ms < 0:",
        "catalogue/test_time.py",
    ),
    fault(
        "a loop that stood still is not noticed",
        "shards/clock.py",
        "if gap_ms <= ABSENCE_LIMIT_MS:",
        "if True:",
        "catalogue/test_time.py",
    ),
    fault(
        "leases end through the server's absence",
        "core/leases.py",
        "return again if again > expires_at else expires_at",
        "return expires_at",
        "catalogue/test_time.py",
        CORE_MODEL,
        is_quick=True,
    ),
    fault(
        "messages are given up through the server's absence",
        "core/leases.py",
        "return self.claims_end_on if self.claims_end_on > expires_at else expires_at",
        "return expires_at",
        CORE_MODEL,
    ),
    fault(
        "a lease of a clock that was ahead is kept after it was set back",
        "core/state/leases.py",
        "        task.expires_at = end\n        state.arm(task)",
        "        state.arm(task)",
        "catalogue/test_time.py",
        CORE_MODEL,
    ),
    fault(
        "a schedule of a clock that was ahead waits for it",
        "core/decisions/schedules.py",
        "    if run_time is not None and following is not None and following < run_time:",
        "    if run_time is None and following is not None:",
        "catalogue/test_time.py",
        CORE_MODEL,
    ),
    fault(
        "a checkpoint forgets when leases began again",
        "core/state/checkpointing.py",
        "LeaseFloor(top.leases_resumed_on, top.claims_end_on)",
        "LeaseFloor(0, 0)",
        "core/test_checkpointing.py",
    ),
    fault(
        "a short lease is taken as it is",
        "core/leases.py",
        "return ttl_ms if ttl_ms > LEASE_LEAST_MS else LEASE_LEAST_MS",
        "return ttl_ms",
        "catalogue/test_leases.py",
    ),
    fault(
        "a clock that was set back ends a promise before it began",
        "core/decisions/promises.py",
        "max(now_ms, promise.created_on),  #",
        "now_ms,  #",
        "catalogue/test_time.py",
        CORE_MODEL,
    ),
    fault(
        "a stale counter is accepted",
        "core/decisions/tasks.py",
        "task.counter != counter:",
        "task.counter < counter:",
        MODEL,
    ),
    fault(
        "a task that is made anew begins with its old counter",
        "core/state/shard_state.py",
        "task.counter = old.counter + 1",
        "task.counter = old.counter",
        "catalogue/test_owners.py",
    ),
    fault(
        "a late heartbeat revives a lease that ran out",
        "core/decisions/tasks.py",
        "    for task_id in list(held):\n        context.task(task_id, now_ms)\n",
        "",
        "core/test_machine.py",
        CORE_MODEL,
        SIMULATION,
    ),
    fault(
        "a heartbeat renews the tasks of others",
        "core/state/shard_state.py",
        "for task in self.claimed.get(record.process_id, {}).values():",
        "for task in [one for held in self.claimed.values() for one in held.values()]:",
        MODEL,
        is_quick=True,
    ),
    fault(
        "a heartbeat renews the locks of others",
        "core/state/locks.py",
        "for resource_id in state.locks_of.get(record.process_id, {}):",
        "for resource_id in list(state.locks):",
        "core/test_heartbeats.py",
    ),
    fault(
        "fences are not checked",
        "shards/shards.py",
        "return owner.machine.task_is_held(fence, now_ms)",
        "return True",
        MODEL,
    ),
    fault(
        "no idempotency key matches no idempotency key",
        "core/decisions/promises.py",
        "return stored is not None and stored == given",
        "return stored == given",
        MODEL,
        is_quick=True,
    ),
    fault(
        "only the first callback of a promise fires",
        COMPLETIONS,
        "_fire(state, record.id, sorted(callbacks), record.at)",
        "_fire(state, record.id, sorted(callbacks)[:1], record.at)",
        MODEL,
    ),
    fault(
        "two tasks of a root are in flight",
        "core/machine.py",
        "if root is None or root.active_count or root.sending is not None:",
        "if root is None or root.sending is not None:",
        MODEL,
    ),
    fault(
        "a schedule runs twice for one slot",
        "core/decisions/schedules.py",
        "        _run(context, schedule, next_run_time, now_ms)\n",
        "        _run(context, schedule, next_run_time, now_ms)\n"
        "        _run(context, schedule, next_run_time, now_ms)\n",
        SIMULATION,
    ),
    fault(
        "a missed run is counted in two slices",
        "core/schedule_runs.py",
        "else self._earliest - 1",
        "else self._earliest",
        "core/test_machine.py",
    ),
    fault(
        "a schedule that was changed goes on with what it had missed before",
        "core/decisions/schedules.py",
        "    if schedule is not missed.schedule:",
        "    if schedule is None:",
        "core/test_machine.py",
    ),
    fault(
        "a schedule forgets what it missed while the server was down",
        "core/decisions/schedules.py",
        "next_run_time = context.cron(schedule.cron).next_after_ms(run_time)",
        "next_run_time = context.cron(schedule.cron).next_after_ms(now_ms)",
        "core/test_machine.py",
        SIMULATION,
    ),
    fault(
        "a lock may be taken from its holder",
        "core/decisions/locks.py",
        "    if held is not None and held.execution_id != command.execution_id:",
        "    if False:",
        MODEL,
    ),
    fault(
        "retention deletes a promise that a task waits to read",
        "core/decisions/retention.py",
        "            if is_in_use(context, promise.id) or lineage.keeps(promise):\n",
        "            if lineage.keeps(promise):\n",
        "core/test_retention.py",
    ),
    # The edge
    fault(
        "the signature of a cursor is not checked",
        "http/wire/cursors.py",
        "if not dot or not hmac.compare_digest(signature, _sign(payload, secret)):",
        "if not dot:",
        "http/test_other_endpoints.py",
        MODEL,
        is_quick=True,
    ),
)

FAULTS = (
    SERVER_FAULTS
    + COMPLETION_FAULTS
    + FUNCTION_FAULTS
    + NODE_FAULTS
    + WORKFLOW_FAULTS
    + QUESTION_FAULTS
    + TRACE_FAULTS
    + BULK_FAULTS
    + OPERATOR_FAULTS
    + WAITING_FAULTS
    + WEB_FAULTS
    + MESH_FAULTS
    + COPY_FAULTS
    + HOME_FAULTS
    + PROCESS_FAULTS
    + CLUSTER_FAULTS
    + SIMULATED_FAULTS
)
