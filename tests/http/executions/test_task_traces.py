"""Function tasks as parts of traces."""

from tests.http.function_world import functions_running
from tests.http.tenants import tenant
from troth.core.catalog import EXECUTION_PREFIX
from troth.core.commands import ReadExecution
from troth.core.model import Trace


async def test_a_task_keeps_the_trace_that_it_was_created_in() -> None:
    """Spans of its run hang below the request that asked for it."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with functions_running() as world:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        headers = {"traceparent": parent, "tracestate": "a=1"}
        made = await customer.send("POST", f"/task/{function_id}", {}, headers=headers)
        assert made.status == 201
        shards = world.api.shards
        reply = await shards.ask(ReadExecution(EXECUTION_PREFIX + made.json["id"]))
        assert reply.promise is not None
        assert reply.promise.trace == Trace(parent, "a=1")
