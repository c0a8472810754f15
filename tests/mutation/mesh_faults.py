"""Planted faults between the groups of a server: links, messages, passes. See `faults.py`."""

from .fault import Fault, fault

LINK, ANSWERING, MESH, PASSES, ERRANDS, ACKNOWLEDGMENTS = (
    f"shards/mesh/{name}.py"
    for name in ("link", "answering", "mesh", "passes", "errands", "acknowledgments")
)
SOCKETS = "http/sockets/link_sockets.py"
TURNS, WAITING = "shards/turns.py", "shards/waiting.py"
BETWEEN, FENCES, ALONE, QUESTIONS = (
    f"shards/mesh/{name}.py"
    for name in ("test_between_groups", "test_fences", "test_errands", "test_links")
)

TIMES = "shards/mesh/test_times.py"
BARRIER = "shards/mesh/test_barrier.py"

MESH_FAULTS: tuple[Fault, ...] = (
    fault(
        "a message leaves before its outbox record is durable",
        TURNS,
        "turn.posts.append((target, message, held, gate))",
        "elsewhere.post(target, message, held, gate)",
        BETWEEN,
        is_quick=True,
    ),
    fault(
        "after a reconnect a message leaves before its outbox record is durable",
        MESH,
        " and sequence <= self._sent.get((index, target), 0)",
        "",
        BETWEEN,
    ),
    fault(
        "messages are not sent again after a reconnect",
        MESH,
        "for state in self._states():",
        "for state in ():",
        BETWEEN,
    ),
    fault(
        "acknowledgments are not said again after a reconnect",
        ACKNOWLEDGMENTS,
        "if source in sources:",
        "if False:",
        BETWEEN,
    ),
    fault(
        "a message that comes again is applied again",
        "core/decisions/between_shards.py",
        "if command.sequence > applied:",
        "if command.sequence >= applied:",
        "core/test_machine.py",
    ),
    fault(
        "an answer does not wait until other groups have received what it caused",
        WAITING,
        "if self._expected_count:",
        "if False:",
        BETWEEN,
        QUESTIONS,
    ),
    fault(
        "an answer waits for a group that is gone",
        LINK,
        "for gate in receipts.values():",
        "for gate in ():",
        BETWEEN,
    ),
    fault(
        "that an answer is written is not told to the group that has the messages",
        LINK,
        "self._released.append(correlation)",
        "pass",
        BETWEEN,
        is_quick=True,
    ),
    fault(
        "messages wait on after the link has ended",
        ANSWERING,
        "for messages in held.values():",
        "for messages in ():",
        BETWEEN,
    ),
    fault(
        "what was in flight when a link broke is asked again",
        LINK,
        "return type(command) in _REPEATABLE",
        "return True",
        QUESTIONS,
    ),
    fault(
        "a process that hangs counts as alive",
        LINK,
        "if now_s - self._heard_s > LINK_SILENCE_MS / 1000 or self._is_succeeded:",
        "if self._is_succeeded:",
        QUESTIONS,
    ),
    fault(
        "questions wait for a link forever",
        LINK,
        "for one in self._waiting if one.until_s <= now_s]",
        "for one in self._waiting if False]",
        QUESTIONS,
    ),
    fault(
        "a question to a process that stops is refused",
        LINK,
        "if isinstance(error, Stopping):",
        "if False:",
        QUESTIONS,
        is_quick=True,
    ),
    fault(
        "a process says that nothing is in doubt while something is",
        ANSWERING,
        "if not self.open_count and not self.is_closed",
        "if not self.is_closed",
        "shards/mesh/test_ends.py",
        is_quick=True,
    ),
    fault(
        "a pass does not keep a task held",
        PASSES,
        "kind in ENDING and self.passes.is_held(home_of(command))",
        "False",
        FENCES,
        is_quick=True,
    ),
    fault(
        "a clock set forward ends a hold while a pass is out",
        PASSES,
        "return kind is not c.ResumeTime and self.passes.are_overtaken(now_ms)",
        "return False",
        FENCES,
        is_quick=True,
    ),
    fault(
        "a pass is counted from the answer instead of the question",
        ERRANDS,
        "until_s = asked_s + reply.count / 1000",
        "until_s = self._now_s() + reply.count / 1000",
        FENCES,
    ),
    fault(
        "a command is carried out after its pass has run out",
        PASSES,
        "if self.now_s() >= fence.until_s:",
        "if False:",
        FENCES,
    ),
    fault(
        "a pass is not returned",
        ANSWERING,
        "self._passes.take_back(frame.body.decode())",
        "pass",
        FENCES,
    ),
    fault(
        "a fence of another group is taken as held",
        ERRANDS,
        "is_held = reply.code is Code.OK",
        "is_held = True",
        FENCES,
    ),
    fault(
        "processes of other users are linked",
        "http/links/unix_sockets.py",
        "return bool(user == os.geteuid())",
        "return True",
        "http/sockets/test_link_sockets.py",
        is_quick=True,
    ),
    fault(
        "what a link has no room for is forgotten",
        SOCKETS,
        "self._unsent = self._unsent[sent_bytes:]",
        'self._unsent = memoryview(b"")',
        "http/sockets/test_link_sockets.py",
    ),
    fault(
        "a claim is made before the leaf of another group was read",
        ERRANDS,
        "return self._claim if is_resume and",
        "return self._claim if False and",
        ALONE,
    ),
    fault(
        "a message that its home has given back stays noted for good",
        "shards/mesh/homes.py",
        "isinstance(report, TaskSent | RetryTask)",
        "isinstance(report, TaskSent)",
        "shards/mesh/test_homes.py"
        "::test_a_message_that_its_home_has_given_back_is_entrusted_no_longer",
        is_quick=True,
    ),
    fault(
        "a promise is deleted without asking other groups",
        ERRANDS,
        "is_free = not any(reply.count for reply in replies)",
        "is_free = True",
        ALONE,
    ),
    fault(
        "a promise is deleted whose origin in another group is pending",
        ERRANDS,
        "self.far.state.promises.update(origins)",
        "pass",
        ALONE,
    ),
    fault(
        "retention does not heed what other groups still need",
        ERRANDS,
        "in_use.update(one for one, code in codes if code is not Code.OK)",
        "pass",
        "shards/gathered/test_retention.py",
        is_quick=True,
    ),
    fault(
        "a snapshot without the barrier: messages pass it",
        MESH,
        "if self.barrier.is_closed:",
        "if False:",
        BARRIER,
    ),
    fault(
        "acknowledgments pass the barrier of a snapshot",
        "shards/mesh/seats.py",
        "if self._barrier.is_closed:",
        "if False:",
        BARRIER,
    ),
    fault(
        "answers to other groups pass the barrier of a snapshot",
        ANSWERING,
        "if end.barrier.is_closed:",
        "if False:",
        BARRIER,
    ),
    fault(
        "messages to other groups do not say when they were sent",
        PASSES,
        "    says_when_sent = True\n",
        "",
        TIMES,
    ),
    fault(
        "a message is carried out at a time below that at which it was sent",
        PASSES,
        "now_ms = max(now_ms, command.sent_ms)",
        "pass",
        TIMES,
        is_quick=True,
    ),
    fault(
        "a group does not keep up with the time of those who send it messages",
        ANSWERING,
        "self._keep_up_with(message.sent_ms)",
        "pass",
        TIMES,
    ),
    fault(
        "what is sent again does not say when it was sent",
        MESH,
        "Receive(index, sequence, message, sent_ms)",
        "Receive(index, sequence, message, 0)",
        TIMES,
    ),
    fault(
        "a process that is started again begins below the time that others told it",
        "shards/replay.py",
        "return count, max(times, default=0)",
        "return count, 0",
        TIMES,
    ),
    fault(
        "a checkpoint does not say at what time it was made",
        "shards/shard.py",
        "self._committer.position, self._now_ms)",
        "self._committer.position)",
        TIMES,
    ),
    fault(
        "an owner's frames are below the time that other groups told it",
        "persistence/streams/stream_log.py",
        "time_ms=max(self._now_ms(), self.told_ms(), chain.time_ms),",
        "time_ms=max(self._now_ms(), chain.time_ms),",
        "shards/streams/test_stream_storage.py",
    ),
    fault(
        "a group keeps its part of a snapshot whose end it was told in vain",
        "shards/gathered/cuts.py",
        "calls.when_linked.append(lambda process: calls.note(process, RELINKED, None))",
        "pass",
        "shards/gathered/test_cuts.py",
    ),
)
