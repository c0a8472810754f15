"""Why a promise is pending, who waits for it, what its work has created."""

from troth.core.catalog import EXECUTION_PREFIX, Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import ID_PARAMETER, Call, Endpoint, Parameter, Success, answer
from troth.http.api.shards_port import answered
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response

from .answers import (
    TreeObject,
    WaitersObject,
    WhyObject,
    tree_object,
    waiter_object,
    why_object,
)
from .asked import (
    AskedQuery,
    account_of,
    function_promise,
    limit_parameter,
    named_promise,
    surveys_of,
)

NODES_LIMIT_COUNT = 2_000
"""How many promises a tree shows at most."""

DEPTH_LIMIT_COUNT = 10_000
"""The largest depth that may be asked for."""


async def why(api: Api, call: Call) -> Response:
    """GET /why/{id}."""
    surveys = surveys_of(api)
    given = call.path["id"]
    found = None
    if not (given.startswith(EXECUTION_PREFIX) and account_of(call)):
        promise_id = named_promise(call)
        found = await answered(surveys.why(promise_id, call.request.principal.id_prefix))
    function = function_promise(call)
    if found is None and function is not None and await _is_own(api, call, function):
        found = await answered(surveys.why(function))
    if found is None:
        raise ApiError(Code.PROMISE_NOT_FOUND)
    return answer(Code.OK, why_object(given, found, api.now_ms()))


async def _is_own(api: Api, call: Call, promise_id: str) -> bool:
    account_id = await answered(surveys_of(api).account_of(promise_id))
    return account_id is not None and account_id == call.request.principal.account_id


async def waiting(api: Api, call: Call) -> Response:
    """GET /waiting/{id}."""
    promise_id = named_promise(call)
    found = await answered(surveys_of(api).waiters(promise_id))
    if found is None:
        raise ApiError(Code.PROMISE_NOT_FOUND)
    return answer(Code.OK, WaitersObject(promise_id, [waiter_object(one) for one in found]))


async def tree(api: Api, call: Call) -> Response:
    """GET /tree/{id}."""
    promise_id = named_promise(call)
    asked = AskedQuery(call.request.query)
    limit_count = asked.limit(NODES_LIMIT_COUNT, NODES_LIMIT_COUNT)
    depth_count = asked.number("depth", 0, DEPTH_LIMIT_COUNT, DEPTH_LIMIT_COUNT)
    asked.done()
    found = await answered(
        surveys_of(api).tree(promise_id, limit_count, depth_count, call.request.principal.id_prefix)
    )
    if found is None:
        raise ApiError(Code.PROMISE_NOT_FOUND)
    return answer(Code.OK, tree_object(promise_id, found, api.settings.trace_url))


ENDPOINTS = (
    Endpoint(
        name="whyPromise",
        group="Questions",
        method="GET",
        path="/why/{id...}",
        summary="Say why a promise has not completed",
        description=(
            "One sentence and the same as data: for which receiver its task waits, whether a "
            "worker listens there, who holds it until when, how often it was sent, the last error "
            "and the next try. A promise that waits for others is followed down to the cause that "
            "is least likely to pass without help. `next` is the deadline that comes first. The id "
            "may be that of a function task, with a token of its account and scope `tasks:read`."
        ),
        handler=why,
        scope=Scope.PROMISES_READ,
        path_parameters=(ID_PARAMETER,),
        successes=(Success(200, "Why it is pending.", WhyObject),),
        refusals=(Code.PROMISE_NOT_FOUND,),
    ),
    Endpoint(
        name="waitingForPromise",
        answers_much=True,
        group="Questions",
        method="GET",
        path="/waiting/{id...}",
        summary="List who waits for a promise",
        description=(
            "Callbacks and subscriptions, and tasks and listeners of the envelope protocol; "
            "nothing waits for a promise that has completed."
        ),
        handler=waiting,
        scope=Scope.PROMISES_READ,
        path_parameters=(ID_PARAMETER,),
        successes=(Success(200, "Who waits.", WaitersObject),),
        refusals=(Code.PROMISE_NOT_FOUND,),
    ),
    Endpoint(
        name="treeOfPromise",
        answers_much=True,
        group="Questions",
        method="GET",
        path="/tree/{id...}",
        summary="Show the tree of calls below a promise",
        description=(
            "What the work on a promise has created, by the tags and ids that client libraries "
            "write: parents first, children in order of creation, without payloads. Pending ones "
            "have their tasks, and a hint where nothing will happen without help. What lies "
            "between and does not exist is skipped. `cut` says that there may be more."
        ),
        handler=tree,
        scope=Scope.PROMISES_READ,
        path_parameters=(ID_PARAMETER,),
        query=(
            limit_parameter(NODES_LIMIT_COUNT, NODES_LIMIT_COUNT),
            Parameter(
                "depth",
                "Levels below the promise; all unless given.",
                {"type": "integer", "minimum": 0, "maximum": DEPTH_LIMIT_COUNT},
                example=2,
            ),
        ),
        successes=(Success(200, "The tree.", TreeObject),),
        refusals=(Code.PROMISE_NOT_FOUND,),
    ),
)
