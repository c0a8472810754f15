"""The planted faults of what goes on in slices, and of commands that nobody would repeat."""

from .fault import Fault, fault

TESTS = "core/test_completions.py"

COMPLETION_FAULTS: tuple[Fault, ...] = (
    fault(
        "a completion under way is not in the checkpoint",
        "core/state/checkpointing.py",
        "        dict(state.completions),\n",
        "        {},\n",
        TESTS,
    ),
    fault(
        "what changes while a capture is made is not read again",
        "core/state/checkpointing.py",
        "        self._take_changes()\n        self._read(self._left_count)\n        rows",
        "        rows",
        "core/test_checkpointing.py",
    ),
    fault(
        "what was deleted while a capture was made stays in the store",
        "core/state/checkpointing.py",
        "        earlier.setdefault(name, place)\n",
        "        pass\n",
        "core/test_checkpointing.py",
    ),
    fault(
        "a completion under way is lost at a crash",
        "core/machine.py",
        "        state.begun_completions.extend(state.completions)\n",
        "",
        TESTS,
        is_quick=True,
    ),
    fault(
        "a part of a completion is carried out again",
        "core/state/completions.py",
        "        callback = callbacks.pop(identifier)",
        "        callback = callbacks[identifier]",
        TESTS,
    ),
    fault(
        "whoever asks for a task is before the completion that makes it",
        "core/deciding.py",
        "        if state.completions and (task is None or task.is_final):",
        "        if False:",
        TESTS,
    ),
    fault(
        "the client is answered before its completion is finished",
        "shards/shard.py",
        "                elif asker is not None:\n                    answers.append(",
        "                if asker is not None:\n                    answers.append(",
        "shards/test_completions.py",
    ),
    fault(
        "a completion that begins within a heartbeat ends the heartbeat",
        "core/machine.py",
        "(tuple(state.begun_completions), step.reply, step.again)",
        "(tuple(state.begun_completions), step.reply)",
        "core/test_heartbeat_slices.py",
    ),
    fault(
        "a lease that a heartbeat under way names ends",
        "core/decisions/workflow_views.py",
        "    at = context.state.workflow_beats.last(task, end) if end <= now_ms else None",
        "    at = None",
        "core/test_heartbeat_slices.py",
    ),
    fault(
        "the server's own command is lost when there is no memory for it",
        "shards/shard.py",
        "            if is_own:\n                return self.machine.step(command, self._now_ms)\n",
        "",
        "shards/test_shard.py",
    ),
    fault(
        "promises are deleted while a completion that makes tasks of them is under way",
        "core/deciding.py",
        "bool(self.state.completions) or self.state.task_notes.awaits(promise_id)",
        "self.state.task_notes.awaits(promise_id)",
        TESTS,
    ),
    fault(
        "a promise that was created again while timers are looked at has two",
        "shards/shard.py",
        "                self.wheel.cancel_fixed(promise.id, promise.timeout)\n            s",
        "                _ = promise.id\n            s",
        "shards/test_set_back.py",
    ),
)
