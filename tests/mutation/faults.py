"""The planted faults, as data: what to change where, and which tests must notice.

`old` has to be in the file exactly once; choose it short, and so that a change around it does not
touch it. A fault whose text is gone is an error of this list, not a fault that was caught.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One planted fault. `tests` are what pytest is given; they run for at most `limit_s`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    is_quick: bool = False
    limit_s: int = 120


def fault(name: str, file: str, old: str, new: str, *tests: str, is_quick: bool = False) -> Fault:
    """A fault, with the tests by their path within `tests/`."""
    return Fault(name, file, old, new, tuple(f"tests/{test}" for test in tests), is_quick)


LOG, SEGMENTS, RECOVERY = (
    f"persistence/{name}.py" for name in ("segmented_log", "segments", "recovery")
)
CRASHES, DAMAGE = "persistence/test_crashes.py", "persistence/test_damage.py"
OUTBOX, SIMULATION = "shards/test_outbox.py", "simulation/test_simulation.py"
REPLAY, CORE_MODEL = "core/test_replay.py", "core/test_against_model.py"
MODEL, SHARD = "model/test_differential.py", "shards/test_shard.py"

FAULTS: tuple[Fault, ...] = (
    # The log on disk
    fault(
        "a batch is acknowledged without its fdatasync",
        LOG,
        "            self._file.sync()\n        except OSError as error:\n"
        "            raise self._fail(error) from error\n        self._count(",
        "            pass\n        except OSError as error:\n"
        "            raise self._fail(error) from error\n        self._count(",
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
        "                self._files.sync_directory(self._log_path)\n",
        "",
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
        "the identity file gets its name before its content is on disk",
        "persistence/data_directory.py",
        "encode_identity(identity))\n            file.sync()",
        "encode_identity(identity))",
        "persistence/test_data_directory.py",
    ),
    fault(
        "the checksum of a batch is not checked",
        "persistence/frames.py",
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
        "persistence/writer.py",
        "            last_sequence = self._log.append(joined, self._log.next_sequence)\n",
        "            self._on_durable(self._log.next_sequence + len(joined) - 1)\n"
        "            last_sequence = self._log.append(joined, self._log.next_sequence)\n",
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
        "persistence/rows.py",
        "if value[:4] != _checksum(table, key, content):",
        "if False:",
        "persistence/test_rows.py",
        is_quick=True,
    ),
    fault(
        "a checkpoint does not wait for the log",
        "shards/checkpointer.py",
        "            await self._committer.wait_durable()\n",
        "",
        "shards/test_checkpointer.py",
    ),
    fault(
        "the log is trimmed beyond the checkpoint",
        "shards/checkpointer.py",
        "self._trim(position + 1)",
        "self._trim(position + 1_000_000)",
        "catalogue/test_disk.py",
    ),
    fault(
        "a promise that changed after its capture leaves memory",
        "core/checkpointing.py",
        "if state.promises.get(name) is promise:",
        "if name in state.promises:",
        "core/test_retention.py",
    ),
    fault(
        "a task that changed after its capture leaves memory",
        "core/checkpointing.py",
        "if row is None or not row.is_final or name in state.changes.tasks:",
        "if row is None or not row.is_final:",
        "core/test_retention.py",
    ),
    # Shards
    fault(
        "answers do not wait for the disk",
        "shards/shard.py",
        "if committer.durable_position >= turn.position and not self._held_back:",
        "if True:",
        SHARD,
        is_quick=True,
    ),
    fault(
        "reads do not wait for what they saw",
        "shards/shard.py",
        "        turn.position = self._position\n",
        "        turn.position = self._position if any(\n"
        "            reply.code == 20100 for _, _, reply in turn.answers\n"
        "        ) else 0\n",
        SHARD,
        SIMULATION,
    ),
    fault(
        "those who wait when the log fails are never told",
        "shards/shards.py",
        "            shard.refuse_all(StorageFailed())",
        "            pass",
        SHARD,
    ),
    fault(
        "a message between shards is acknowledged before it is durable",
        "shards/shard.py",
        "turn.acknowledgements[source] = max(sequence, turn.acknowledgements.get(source, 0))",
        "self._post(source, Acknowledge(self.index, sequence), None)",
        SHARD,
    ),
    fault(
        "messages leave before the answer that caused them",
        "shards/held.py",
        "        if self._released:\n",
        "        if True:\n",
        SHARD,
        "http/test_application.py",
    ),
    fault(
        "time goes back with the machine's clock",
        "shards/clock.py",
        "        if now_ms > self._last_ms:\n",
        "        if True:\n",
        "catalogue/test_time.py",
    ),
    fault(
        "timers fire a slot late",
        "shards/wheel.py",
        "self._take_slots(level, digit - 1 if level else digit, due)",
        "self._take_slots(level, digit - 1, due)",
        "shards/test_wheel.py",
    ),
    fault(
        "a stream that hangs up takes its messages with it",
        "shards/polls.py",
        "            self._listener.returned(items)",
        "            pass",
        "shards/test_polls.py",
    ),
    fault(
        "a delivery is not reported",
        "shards/delivery.py",
        "        self._report(TaskSent(shipment.id, shipment.counter))",
        "        pass",
        "shards/test_delivery_push.py",
    ),
    fault(
        "a failed delivery is not reported",
        "shards/delivery.py",
        "        self._report(TaskNotSent(shipment.id, shipment.counter))",
        "        pass",
        "shards/test_delivery_push.py",
    ),
    # The state machine
    fault(
        "a message between shards is applied twice",
        "core/machine.py",
        "    if command.sequence > applied:",
        "    if True:",
        OUTBOX,
        is_quick=True,
    ),
    fault(
        "an acknowledgement between shards is dropped",
        "core/machine.py",
        "if waiting and next(iter(waiting)) <= command.sequence:",
        "if False:",
        OUTBOX,
        SIMULATION,
    ),
    fault(
        "messages between shards are not sent again after a crash",
        "core/machine.py",
        "for target, messages in state.outbox.items():",
        "for target, messages in ():",
        OUTBOX,
        SIMULATION,
    ),
    fault(
        "the timers of promises are forgotten in a crash",
        "core/machine.py",
        "promise for promise in state.promises.values() if promise.state is PENDING",
        "promise for promise in ()",
        REPLAY,
        CORE_MODEL,
    ),
    fault(
        "the timers of locks are forgotten in a crash",
        "core/machine.py",
        "lock.resource_id), lock.expires_at",
        "lock.resource_id), None",
        REPLAY,
        CORE_MODEL,
    ),
    fault(
        "the timers of schedules are forgotten in a crash",
        "core/machine.py",
        "yield (TimerKind.SCHEDULE, schedule.id), schedule.next_run_time",
        "yield (TimerKind.SCHEDULE, schedule.id), None",
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
        "core/machine.py",
        "if promise.timeout <= now_ms and",
        "if promise.timeout < now_ms and",
        MODEL,
        is_quick=True,
    ),
    fault(
        "a lease lives a millisecond too long",
        "core/machine.py",
        "if deadline is None or deadline > until_ms:",
        "if deadline is None or deadline >= until_ms:",
        MODEL,
    ),
    fault(
        "a lock lives a millisecond too long",
        "core/locks.py",
        "lock.expires_at <= now_ms",
        "lock.expires_at < now_ms",
        MODEL,
    ),
    fault(
        "a stale counter is accepted",
        "core/tasks.py",
        "task.counter != counter:",
        "task.counter < counter:",
        MODEL,
    ),
    fault(
        "a task that is made anew begins with its old counter",
        "core/state.py",
        "task.counter = old.counter + 1",
        "task.counter = old.counter",
        "catalogue/test_owners.py",
    ),
    fault(
        "a late heartbeat revives a lease that ran out",
        "core/tasks.py",
        "    for task_id in list(held):\n        machine.task(task_id, now_ms)\n",
        "",
        "core/test_machine.py",
        CORE_MODEL,
        SIMULATION,
    ),
    fault(
        "a heartbeat renews the tasks of others",
        "core/state.py",
        "for task in self.claimed.get(record.process_id, {}).values():",
        "for task in [one for held in self.claimed.values() for one in held.values()]:",
        MODEL,
        is_quick=True,
    ),
    fault(
        "a heartbeat renews the locks of others",
        "core/state.py",
        "for resource_id in self.locks_of.get(record.process_id, {}):",
        "for resource_id in list(self.locks):",
        MODEL,
    ),
    fault(
        "fences are not checked",
        "core/promises.py",
        "return fence is not None and not machine.holds(fence, now_ms)",
        "return False",
        MODEL,
    ),
    fault(
        "no idempotency key matches no idempotency key",
        "core/promises.py",
        "return stored is not None and stored == given",
        "return stored == given",
        MODEL,
        is_quick=True,
    ),
    fault(
        "only the first callback of a promise fires",
        "core/state.py",
        "for identifier in sorted(callbacks):",
        "for identifier in sorted(callbacks)[:1]:",
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
        "core/schedules.py",
        "        _run(machine, schedule, next_run_time, now_ms)\n",
        "        _run(machine, schedule, next_run_time, now_ms)\n"
        "        _run(machine, schedule, next_run_time, now_ms)\n",
        SIMULATION,
    ),
    fault(
        "a schedule forgets what it missed while the server was down",
        "core/schedules.py",
        "next_run_time = machine.cron(schedule.cron).next_after_ms(run_time)",
        "next_run_time = machine.cron(schedule.cron).next_after_ms(now_ms)",
        "core/test_machine.py",
        SIMULATION,
    ),
    fault(
        "a lock may be taken from its holder",
        "core/locks.py",
        "    if held is not None and held.execution_id != command.execution_id:",
        "    if False:",
        MODEL,
    ),
    fault(
        "retention deletes a promise that a task waits to read",
        "core/retention.py",
        "    return promise_id in machine.state.roots or machine.is_awaited(promise_id)",
        "    return False",
        "core/test_retention.py",
    ),
    # The edge
    fault(
        "the signature of a cursor is not checked",
        "http/cursors.py",
        "if not dot or not hmac.compare_digest(signature, _sign(payload, secret)):",
        "if not dot:",
        "http/test_other_endpoints.py",
        MODEL,
        is_quick=True,
    ),
    fault(
        "any password will do",
        "http/credentials.py",
        "if hmac.compare_digest(given, expected) and known is not None:",
        "if known is not None:",
        "http/test_routing.py::test_strangers_are_refused",
    ),
    fault(
        "what a token may do is not looked at",
        "http/authentication.py",
        "if scope is None or scope not in principal.scopes:",
        "if scope is None:",
        "http/test_authentication.py",
    ),
    fault(
        "a token that is limited to some ids is good for all",
        "http/permissions.py",
        "if not all(one.startswith(prefix) for one in named):",
        "if False:",
        "http/test_codes.py",
    ),
)
