"""What must be true of the server's state after each crash, and of its log in the end."""

from collections import Counter
from collections.abc import Iterable, Mapping

from tests.core.dumps import dump
from tests.helpers.scanned_counts import scan
from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.bulk import BulkAction, BulkJob, BulkSubject
from troth.core.grammar.cron import parse
from troth.core.model import Promise, PromiseState, Task, TaskKind, TaskState, replace
from troth.core.state.shard_state import ShardState
from troth.persistence.checkpoints import rows
from troth.persistence.wal.log import LogRecord
from troth.shards.hashing import shard_of

from .ledger import Final, Ledger, require
from .server import SHARD_COUNT, Server

WHOLE = (
    *("pending", "callbacks", "task sequence", "claimed", "schedules", "locks", "locks of"),
    *("counts", "outbox", "outbox sequence", "inbox", "largest serial", "entries", "executions"),
    *(
        "completions",
        "bulk parts",
        "usage",
        "workflows",
        "awaits",
        "listeners",
        "unblocks",
        "workflow floor",
    ),
)
"""The parts of a state that are in memory as a whole."""


def check_recovered(server: Server, ledger: Ledger) -> None:
    """Everything that was acknowledged is there, and nothing is half done."""
    states = [shard.machine.state for shard in server.shards._shards]
    own = {state.index: state for state in states}
    # Of other groups, what is durable of them now.
    everywhere = [own.get(shadow.index, shadow) for shadow in server.watch.shadow]
    _check_acknowledged(server, everywhere, ledger)
    if server.storage.checkpoints is not None:
        server.storage.checkpoints.verify()
    view = None if server.storage.checkpoints is None else server.storage.checkpoints.reader.view
    for state in states:
        _check_whole(state)
        require(state.counts == scan(state, view), f"the counts of {state.index} are wrong")
    _check_outboxes(everywhere)
    check_replay(server, states)
    _check_bulk(server, states)


def _check_bulk(server: Server, states: list[ShardState]) -> None:
    """What was done for a bulk job and how far it is are one: both are there, or neither."""
    promises, _ = _cold(server)
    for state in states:
        for identifier in state.hidden_promises:
            promises.pop(identifier, None)
        promises |= state.promises
    done = Counter((shard_of(one.id, SHARD_COUNT), one.value.data) for one in promises.values())
    jobs = {name: one for state in server.watch.shadow for name, one in state.entries.by_id.items()}
    for state in states:
        for job_id, part in state.bulk_parts.items():
            job = jobs[job_id]
            assert isinstance(job, BulkJob)
            if job.subject is BulkSubject.TASKS:
                continue
            if job.action is BulkAction.DELETE:
                found_count = server.watch.deleted_of(job, state.index)
            else:
                found_count = done[state.index, job_id]
            require(
                part.counts.done_count == found_count,
                f"{job_id} has {part.counts} in {state.index}, and {found_count} are done",
            )


def check_replay(server: Server, states: list[ShardState]) -> None:
    """I2: what came up is what a replay of all durable records gives."""
    promises, tasks = _cold(server)
    shadows = [server.watch.shadow[state.index] for state in states]
    for state, shadow in zip(states, shadows, strict=True):
        for identifier in state.hidden_promises:
            promises.pop(identifier, None)
        for identifier in state.hidden_tasks:
            tasks.pop(identifier, None)
        promises |= state.promises
        tasks |= state.tasks
        found, expected = dump(state), dump(shadow)
        for name in WHOLE:
            require(found[name] == expected[name], f"{name} of {state.index} came back otherwise")
    _require_same(
        promises, {key: one for shadow in shadows for key, one in shadow.promises.items()}
    )
    _require_same(
        {key: _plain(one) for key, one in tasks.items()},
        {key: _plain(one) for shadow in shadows for key, one in shadow.tasks.items()},
    )


def _plain(task: Task) -> Task:
    """A task without the dispatcher's notes, which are no part of the state."""
    return replace(task, queued=False, sending=False, stalled=False, sends_count=0, since=None)


def _require_same(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    if found != expected:
        wrong = sorted(
            key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
        )
        name = wrong[0]
        require(False, f"{name} came back as {found.get(name)} and was {expected.get(name)}")


def _cold(server: Server) -> tuple[dict[str, Promise], dict[str, Task]]:
    """What only the checkpoints hold, or what they still hold of before."""
    promises: dict[str, Promise] = {}
    tasks: dict[str, Task] = {}
    if server.storage.checkpoints is not None:
        view, decoder = server.storage.checkpoints.reader.view, rows.RowDecoder()
        for key, value in view.scan(rows.PROMISES, b"", b"\xff" * 512):
            promise = decoder.promise(rows.PROMISES, key, value)
            promises[promise.id] = promise
        for key, value in view.scan(rows.TASKS, b"", b"\xff" * 512):
            task = decoder.task(rows.TASKS, key, value)
            tasks[task.id] = task
    return promises, tasks


def _check_acknowledged(server: Server, states: list[ShardState], ledger: Ledger) -> None:
    promises, tasks = _cold(server)
    for state in states:
        promises |= state.promises
        tasks |= state.tasks
    waiting = {one for state in states for some in state.callbacks.values() for one in some}
    under_way = {
        message.callback.id
        for state in states
        for _, _, message in state.outbox
        if isinstance(message, r.ResumeMessage)
    }
    deleted = server.watch.deleted
    for identifier in ledger.created - deleted:
        require(identifier in promises, f"{identifier} was acknowledged and is lost")
    for identifier, final in ledger.finals.items():
        if identifier in deleted:
            continue
        promise = promises[identifier]
        found = Final(promise.state, promise.value.data)
        require(found == final, f"{identifier} was {final} and came back as {found}")
    deleted_tasks = server.watch.deleted_tasks
    for task_id in [*ledger.callbacks, *ledger.subscriptions]:
        if task_id in deleted_tasks or ledger.subscriptions.get(task_id) in deleted:
            continue
        require(
            task_id in tasks or task_id in waiting or task_id in under_way,
            f"the callback for {task_id} was acknowledged and is lost",
        )
    for task_id, counter in ledger.claims:
        if task_id in deleted_tasks:
            continue
        task = tasks.get(task_id)
        require(task is not None and task.counter >= counter, f"{task_id}/{counter} is lost")
    for task_id, counter in ledger.completed_tasks:
        if task_id in deleted_tasks:
            continue
        task = tasks[task_id]
        require(
            task.is_final or task.counter > counter, f"{task_id} was completed and is {task.state}"
        )
    versions = {one.id: one.version for state in states for one in state.workflows.values()}
    for workflow_id, version in ledger.flow_claims:
        found_version = versions.get(workflow_id)
        if found_version is None:
            found_version = promises[workflow_id].task_version
        require(
            found_version is not None and found_version >= version,
            f"{workflow_id}/{version} was claimed and came back as {found_version}",
        )
    waiting_addresses = {
        pair
        for state in states
        for pair in (
            *state.listeners.pairs(),
            *((one, address) for one, all_of in state.unblocks.items() for address in all_of),
        )
    }
    lost = ledger.listeners - waiting_addresses - server.watch.told
    require(not lost, f"listeners were acknowledged and are lost: {lost}")
    schedules = {identifier for state in states for identifier in state.schedules}
    require(ledger.schedules <= schedules, f"lost schedules: {ledger.schedules - schedules}")


def _check_whole(state: ShardState) -> None:
    """A completion's effects are all there or all not there, and the indexes agree."""
    for awaited, awaiter in (*state.awaits.pairs(), *state.listeners.pairs()):
        promise = state.promises[awaited]
        require(promise.state is PromiseState.PENDING, f"{awaited} ended, {awaiter} still waits")
    for workflow in state.workflows.values():
        promise = state.promises[workflow.id]
        require(promise.state is PromiseState.PENDING, f"{workflow.id} ended, its task did not")
    for identifier in state.callbacks:
        promise = state.promises[identifier]
        require(promise.state is PromiseState.PENDING, f"{identifier} ended and has callbacks")
    for root_id, root in state.roots.items():
        root_promise = state.find_promise(root_id)
        if root_promise is not None and root_promise.state is not PromiseState.PENDING:
            # Resume tasks of a leaf that ended after its root may come later; invoke tasks may not.
            kinds = {task.kind for task in root.tasks}
            require(TaskKind.INVOKE not in kinds, f"{root_id} ended and its task did not")
    claimed = {task.id for task in state.tasks.values() if task.state is TaskState.CLAIMED}
    indexed = {task_id for held in state.claimed.values() for task_id in held}
    require(claimed == indexed, "the index of claimed tasks is wrong")
    pending_count = sum(
        promise.state is PromiseState.PENDING for promise in state.promises.values()
    )
    require(pending_count == state.pending_count, "the count of pending promises is wrong")


def _check_outboxes(states: list[ShardState]) -> None:
    """No target has seen a message that its source does not know of."""
    for target in states:
        for source, sequence in target.inbox.items():
            sent = states[source].outbox.sequences.get(target.index, 0)
            require(sequence <= sent, f"shard {target.index} has a message nobody has sent")


def faults_of_cut(cut: Iterable[ShardState]) -> list[str]:
    """Effects without their causes in a cut through all groups, and effects that are lost."""
    states = {state.index: state for state in cut}
    found = []
    for source in states.values():
        for target in states.values():
            sent = source.outbox.sequences.get(target.index, 0)
            received = target.inbox.get(source.index, 0)
            waiting = {number for to, number, _ in source.outbox if to == target.index}
            if received > sent:
                found.append(f"{target.index} has {received} of {sent} that {source.index} sent")
            lost = [one for one in range(received + 1, sent + 1) if one not in waiting]
            if lost:
                found.append(f"{lost} from {source.index} to {target.index} are nowhere")
    return found


def check_settled(server: Server) -> list[str]:
    """What is not at rest yet, when all work is done."""
    unrest: list[str] = []
    if server.homes is not None and server.homes.entrusted_count:
        unrest.append(f"{server.homes.entrusted_count} messages are with other processes")
    if server.placement.promise_ids:
        unrest.append(f"placement still has {sorted(server.placement.promise_ids)}")
    for shard in server.shards._shards:
        state = shard.machine.state
        if state.completions:
            unrest.append(f"shard {shard.index} has not finished {sorted(state.completions)}")
        if state.outbox:
            unrest.append(f"shard {shard.index} has messages for {sorted(state.outbox)}")
        unrest += [
            f"{task.id} is {task.state}" for task in state.tasks.values() if not task.is_final
        ]
        unrest += [f"{one.id} is {one.state}" for one in state.workflows.values()]
        unrest += [f"{awaiter} awaits {awaited}" for awaited, awaiter in state.awaits.pairs()]
        unrest += [f"{address} waits for {one}" for one, address in state.listeners.pairs()]
        unrest += [f"nobody was told of {one}" for one in state.unblocks]
    return unrest


def check_log(entries: Iterable[tuple[int, LogRecord]]) -> Counter[str]:
    """Each fact is in the log once; what kinds of facts there are."""
    kinds: Counter[str] = Counter()
    made: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    messages: Counter[tuple[int, int, int]] = Counter()
    runs: Counter[int] = Counter()
    runs_made: Counter[str] = Counter()
    cron = ""
    holders: dict[str, str] = {}
    first_run = 0
    for _, entry in entries:
        record = r.decode(entry.body)
        kinds[type(record).__name__] += 1
        match record:
            case r.PromiseCreated() | w.WorkflowCreated():
                made[record.id] += 1
            case r.PromiseCompleted() | r.CompletionBegun():
                ended[record.id] += 1
            case r.PromisesDeleted():
                # A late echo of the request that made it may make another one, once it is gone.
                for once in (made, ended):
                    again = [one for one in record.ids if once.pop(one, 1) != 1]
                    require(not again, f"made or ended more than once: {again}")
            case r.MessageReceived(source=source, sequence=sequence, message=message):
                messages[entry.shard, source, sequence] += 1
                if isinstance(message, r.PromiseMessage):
                    runs_made[message.id] += 1
            case r.ScheduleCreated(schedule=schedule):
                first_run = schedule.next_run_time or 0
                cron = schedule.cron
            case r.ScheduleFired(run_time=run_time, promise=promise):
                runs[run_time] += 1
                runs_made[promise.id] += shard_of(promise.id, SHARD_COUNT) == entry.shard
            case r.LockAcquired(lock=lock):
                holder = holders.setdefault(lock.resource_id, lock.execution_id)
                require(holder == lock.execution_id, f"{lock} was taken from {holder}")
            case r.LockReleased(resource_id=resource_id):
                require(holders.pop(resource_id, None) is not None, "a free lock was released")
    for name, counts in (("made", made), ("ended", ended), ("applied", messages), ("run", runs)):
        repeated = [key for key, count in counts.items() if count != 1]
        require(not repeated, f"{name} more than once: {repeated}")
    if not cron:
        return kinds
    expected = parse(cron)
    time: int | None = first_run
    for run_time in sorted(runs):
        require(run_time == time, f"the schedule ran at {run_time} and not at {time}")
        time = expected.next_after_ms(run_time)
    require(runs_made == Counter(f"run/{run_time}" for run_time in runs), "runs lost or repeated")
    return kinds
