"""The packages of builds: promises that are resolved from their creation, with the zip as value.

So they are stored, checkpointed and restored like any other promise, and leave memory with the next
checkpoint. Retention passes them over; they go with their builds.
"""

from troth.core import records as r
from troth.core.catalog import PACKAGE_PREFIX
from troth.core.codes import Code
from troth.core.commands import DeletePromises, StorePackage
from troth.core.deciding import DecisionContext
from troth.core.limits import INTEGER_MAX
from troth.core.model import Promise, PromiseState, Value
from troth.core.replies import Reply


def store_package(context: DecisionContext, command: StorePackage, now_ms: int) -> Reply:
    """Keep a package; the same one under the same id again is fine."""
    assert command.id.startswith(PACKAGE_PREFIX), "packages have names of their own"
    existing = context.promise(command.id, now_ms)
    if existing is not None:
        same = existing.value.data == command.data
        return Reply(Code.OK if same else Code.PROMISE_EXISTS, promise=existing if same else None)
    promise = Promise(
        command.id,
        context.next_serial(),
        PromiseState.RESOLVED,
        INTEGER_MAX,
        now_ms,
        value=Value(None, command.data),
        completed_on=now_ms,
    )
    context.emit(r.PromiseImported(promise, None, now_ms))
    return Reply(Code.CREATED, promise=promise)


def delete_promises(context: DecisionContext, command: DeletePromises, now_ms: int) -> Reply:
    """Delete packages for good; the reply counts those that were there."""
    assert all(one.startswith(PACKAGE_PREFIX) for one in command.ids), "only packages go so"
    there = [one for one in command.ids if context.state.find_promise(one) is not None]
    if there:
        context.emit(r.PromisesDeleted(there, [], 0, now_ms))
    return Reply(Code.OK, count=len(there))
