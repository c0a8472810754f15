"""What the endpoints for nodes do with placement around a command.

The endpoints are `http/nodes/node_work_endpoints.py`.

Here, where a request arrives, and not where it is sent: on its way it may be late or come twice.
"""

from collections.abc import Awaitable, Callable

from troth.core.codes import Code
from troth.core.commands import AssignExecution, Command, FinishExecution, ReturnExecution
from troth.core.grammar.task_ids import parse
from troth.core.replies import Reply
from troth.shards.placement.placement import Placement

SERVER_NODE_ID = "the server"

Ask = Callable[[Command], Awaitable[Reply]]


def promise_of(task_id: str) -> str:
    """The function task's promise, by the id of its invoke task."""
    name = parse(task_id)
    assert name is not None
    return name.root


async def ask_for_node(placement: Placement, command: Command, ask: Ask) -> Reply:
    """Carry a node's command out as its endpoint does; other commands just so."""
    if isinstance(command, AssignExecution):
        return await _assign(placement, command, ask)
    if isinstance(command, ReturnExecution):
        placement.returned(command.node_id, promise_of(command.id), command.counter)
    if isinstance(command, FinishExecution):
        return await _finish(placement, command, ask)
    return await ask(command)


async def _assign(placement: Placement, command: AssignExecution, ask: Ask) -> Reply:
    promise_id = promise_of(command.id)
    if command.node_id != SERVER_NODE_ID and (
        placement.find_with(command.node_id, promise_id, command.counter) is None
    ):
        return Reply(Code.EXECUTION_NOT_HELD)
    reply = await ask(command)
    if reply.code in (Code.OK, Code.CREATED):
        placement.assigned(promise_id, command.counter)
    return reply


async def _finish(placement: Placement, command: FinishExecution, ask: Ask) -> Reply:
    promise_id = promise_of(command.id)
    knows = placement.find_with(command.node_id, promise_id, command.counter) is not None
    if knows:
        placement.ending(promise_id, command.counter)
    reply = await ask(command)
    if knows and reply.code not in (Code.OK, Code.CREATED):
        placement.ending(promise_id, command.counter, is_ending=False)
    return reply
