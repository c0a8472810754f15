"""What the promise commands do: create, read, complete, wait, search (rest.md 2, 3, 4, 10)."""

from typing import Final

from troth.core import lifecycles
from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.codes import Code
from troth.core.commands import (
    CompletePromise,
    CreateCallback,
    CreatePromise,
    CreateSubscription,
    ImportPromise,
    ReadPromise,
    SearchPromises,
)
from troth.core.deciding import DecisionContext
from troth.core.grammar import task_ids
from troth.core.grammar.patterns import Pattern
from troth.core.limits import saturating_add
from troth.core.model import (
    NOTIFY,
    PENDING,
    RESUME,
    TAG_TARGET,
    Callback,
    Promise,
    replace,
)
from troth.core.replies import PromisePage, Reply
from troth.core.seeds import seed_of, workflow_seed_of
from troth.core.state import cold as cold_store
from troth.core.state.cold import Found, Query
from troth.core.state.creations import create

# See PENDING in model.py.
_OK: Final = Code.OK
_CREATED: Final = Code.CREATED


def keys_match(stored: str | None, given: str | None) -> bool:
    """Return whether two idempotency keys match; a missing one matches nothing."""
    return stored is not None and stored == given


def create_promise(context: DecisionContext, command: CreatePromise, now_ms: int) -> Reply:
    """Create a promise, and the task that its tags ask for."""
    state, promise_id = context.state, command.id
    if command.fence is not None and not context.fence_holds(command.fence, now_ms):
        return Reply(Code.TASK_FENCED)
    if promise_id in state.promises.kept:
        context.settle()
        existing = context.promise(promise_id, now_ms)
    elif promise_id in state.hidden_promises:
        existing = None
    else:  # nearly always; as `find_cold_promise`
        existing = state.cold.promise(promise_id)
    if existing is not None:
        matches = keys_match(existing.key_for_create, command.idempotency_key)
        code = lifecycles.CREATE_EXISTING[existing.state, matches, command.strict]
        return Reply(code, promise=existing if code is _OK else None)
    tags, claim = command.tags, command.claim
    seed = None
    if tags is not None or claim is not None:
        if tags is not None and TAG_TARGET in tags and claim is None:
            return _create_with_target(context, command, tags, now_ms)
        seed = seed_of(tags)
        if claim is not None:
            if seed is None:
                return Reply(Code.RECEIVER_NOT_FOUND)
            seed = r.TaskSeed(
                seed.receiver,
                claim.process_id,
                claim.ttl,
                saturating_add(now_ms, claim.ttl),
                seed.not_before,
            )
    next_serial = context.next_serial  # called as a method, an attribute costs more
    record = r.PromiseCreated(
        promise_id,
        next_serial(),
        command.timeout,
        now_ms,
        command.param,
        tags or None,
        command.idempotency_key,
        command.trace,
        seed,
    )
    if context.watch.is_on:
        context.emit(record)
    else:  # the same, but settled with the next ones
        context.records.append(record)
        create(state, record)
    if seed is None:
        context.changes_one_promise = True
        return Reply(_CREATED, state.newest)
    task = None
    if claim is not None:
        task = state.tasks[task_ids.invoke_id(promise_id)].copy()
    return Reply(_CREATED, promise=state.promises[promise_id], task=task)


def _create_with_target(
    context: DecisionContext, command: CreatePromise, tags: dict[str, str], now_ms: int
) -> Reply:
    """Create a promise whose task is a workflow's: workers of the envelope protocol do it."""
    seed = workflow_seed_of(tags, command.timeout)
    assert seed is not None, "there is a target"
    context.emit(
        w.WorkflowCreated(
            command.id,
            context.next_serial(),
            command.timeout,
            now_ms,
            command.param,
            tags,
            command.idempotency_key,
            command.trace,
            seed,
        )
    )
    return Reply(_CREATED, promise=context.state.promises[command.id])


def read_promise(context: DecisionContext, command: ReadPromise, now_ms: int) -> Reply:
    """Read a promise."""
    promise = context.promise(command.id, now_ms)
    if promise is None:
        return Reply(Code.PROMISE_NOT_FOUND)
    return Reply(_OK, promise=promise)


def complete_promise(context: DecisionContext, command: CompletePromise, now_ms: int) -> Reply:
    """Complete a promise, once."""
    if command.fence is not None and not context.fence_holds(command.fence, now_ms):
        return Reply(Code.TASK_FENCED)
    promise = context.promise(command.id, now_ms)
    if promise is None:
        return Reply(Code.PROMISE_NOT_FOUND)
    matches = keys_match(promise.key_for_complete, command.idempotency_key)
    same = promise.state is command.state
    code = lifecycles.COMPLETE[promise.state, matches, same, command.strict]
    if code is _CREATED:
        promise = context.complete(
            r.PromiseCompleted(
                command.id,
                command.state,
                command.value,
                command.idempotency_key,
                max(now_ms, promise.created_on),  # the clock may have been set back in between
                now_ms,
            )
        )
    elif code is not _OK:
        return Reply(code)
    return Reply(code, promise=promise)


def import_promise(context: DecisionContext, command: ImportPromise, now_ms: int) -> Reply:
    """Take in a promise; if it was taken in before, nothing is done.

    A promise that was pending when it was taken in may have completed here since.
    """
    given = command.promise
    existing = context.promise(given.id, now_ms)
    if existing is None:
        return _take_in(context, given, now_ms)
    same = replace(existing, serial=given.serial, trace=given.trace, task_version=None)
    if given.state is PENDING:
        same = replace(
            same,
            state=given.state,
            value=given.value,
            key_for_complete=given.key_for_complete,
            completed_on=given.completed_on,
        )
    return Reply(_OK if same == given else Code.PROMISE_EXISTS, promise=existing)


def _take_in(context: DecisionContext, given: Promise, now_ms: int) -> Reply:
    """Take in a promise that is new here."""
    tags, is_pending = given.tags, given.state is PENDING
    promise = replace(given, serial=context.next_serial())
    seed = workflow = None
    if is_pending:
        seed, workflow = seed_of(tags), workflow_seed_of(tags, given.timeout)
    elif tags is not None and TAG_TARGET in tags:
        promise = replace(promise, task_version=0)
    context.emit(r.PromiseImported(promise, seed, now_ms))
    if workflow is not None:
        context.emit(w.WorkflowImported(given.id, workflow, now_ms))
    elif seed is None and not (is_pending and given.timeout <= now_ms):
        context.changes_one_promise = True
        return Reply(_CREATED, promise=promise)
    return Reply(_CREATED, promise=context.promise(given.id, now_ms))


def create_callback(context: DecisionContext, command: CreateCallback, now_ms: int) -> Reply:
    """Register a callback: resume a root when a promise completes."""
    if command.promise_id == command.root_id:
        return Reply(Code.SAME_ROOT)
    if command.fence is not None and not context.fence_holds(command.fence, now_ms):
        return Reply(Code.TASK_FENCED)
    return _wait_for(
        context,
        Callback(
            task_ids.resume_id(command.root_id, command.promise_id),
            RESUME,
            command.promise_id,
            command.root_id,
            command.timeout,
            command.receiver,
            now_ms,
            command.trace,
        ),
        now_ms,
    )


def create_subscription(
    context: DecisionContext, command: CreateSubscription, now_ms: int
) -> Reply:
    """Register a subscription: notify a receiver when a promise completes."""
    return _wait_for(
        context,
        Callback(
            task_ids.notify_id(command.promise_id, command.name),
            NOTIFY,
            command.promise_id,
            command.promise_id,
            command.timeout,
            command.receiver,
            now_ms,
            command.trace,
        ),
        now_ms,
    )


def _wait_for(context: DecisionContext, callback: Callback, now_ms: int) -> Reply:
    """Register a callback while its promise is pending; once per id (rest.md 4.2)."""
    promise = context.promise(callback.promise_id, now_ms)
    if promise is None:
        return Reply(Code.PROMISE_NOT_FOUND)
    registered = context.state.callbacks.get(promise.id, {})
    if promise.state is not PENDING or callback.id in registered:
        return Reply(_OK, promise=promise)
    if len(registered) >= context.options.callbacks_limit_count:
        return Reply(Code.TOO_MANY_CALLBACKS)
    context.emit(r.CallbackCreated(callback))
    return Reply(_CREATED, promise=promise, callback=callback)


def search_promises(context: DecisionContext, command: SearchPromises, now_ms: int) -> Reply:
    """Return one page of this shard's promises that match, newest first."""
    query = Query(
        Pattern(command.pattern, command.id_prefix),
        command.states,
        command.tags,
        command.limit_count,
        command.before_serial,
        command.scan_count,
        created=command.created,
        completed=command.completed,
        oldest_first=command.oldest_first,
    )
    found = find(context, query, now_ms)
    return Reply(_OK, promises=PromisePage(tuple(found.promises), found.next_before))


def find(context: DecisionContext, query: Query, now_ms: int) -> Found:
    """Return what of this shard a query wants, in memory and not."""
    if query.pattern.exact is not None:
        return _search_one(context, query, query.pattern.exact, now_ms)
    in_memory = _search_memory(context, query, now_ms)
    parts = (in_memory, _search_cold(context, query))
    return cold_store.merge(parts, query.limit_count, oldest_first=query.oldest_first)


def _search_one(context: DecisionContext, query: Query, promise_id: str, now_ms: int) -> Found:
    promise = context.promise(promise_id, now_ms)
    if promise is None or not query.is_beyond(promise.serial) or not query.matches(promise):
        return Found([], None)
    return Found([promise], None)


def _search_memory(context: DecisionContext, query: Query, now_ms: int) -> Found:
    """Look through the promises that are in memory."""
    index = context.state.index_for(query.tags, reserved=query.reserved)
    if (
        PENDING not in query.states
        and not context.timers_may_be_late
        and len(context.state.completed) <= min(len(index), query.scan_count)
    ):
        return _search_completed(context, query)
    matched: list[Promise] = []
    last = query.before_serial
    scan = index.above if query.oldest_first else index.below
    for serial, promise_id in scan(query.before_serial, query.scan_count):
        last = serial
        if not query.admits(promise_id):
            continue
        promise = context.promise(promise_id, now_ms)
        if promise is not None and query.fits(promise):
            matched.append(promise)
            if len(matched) == query.limit_count:
                break
    has_more = index.has_above(last) if query.oldest_first else index.has_below(last)
    return Found(matched, last if has_more else None)


def _search_cold(context: DecisionContext, query: Query) -> Found:
    """Look through the promises that have left memory; not those deleted or made again since."""
    state = context.state
    found = state.cold.search(query)
    hidden, present = state.hidden_promises, state.promises
    promises = [
        promise
        for promise in found.promises
        if promise.id not in present and promise.id not in hidden
    ]
    return Found(promises, found.next_before)


def _search_completed(context: DecisionContext, query: Query) -> Found:
    """Look through the completed promises that are in memory, which are few: all in one pass."""
    promises = context.state.promises
    matched = [
        promise
        for promise in map(promises.__getitem__, context.state.completed)
        if query.is_beyond(promise.serial) and query.matches(promise)
    ]
    matched.sort(key=lambda promise: promise.serial, reverse=not query.oldest_first)
    if len(matched) > query.limit_count:
        del matched[query.limit_count :]
        return Found(matched, matched[-1].serial)
    return Found(matched, None)


def expire_promise(context: DecisionContext, promise_id: str, now_ms: int) -> None:
    """Handle the promise's timer: settle the promise, which does the rest."""
    context.promise(promise_id, now_ms)
