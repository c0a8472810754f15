"""Functions, `/v1/function`: what executions run, and what it demands of nodes.

Deleting a function refuses new executions of it. Those that were created before go on: their plans
say all that is needed, and their builds stay until none of them needs them (`builder.py`).
"""

from collections.abc import Sequence
from typing import Annotated

from troth.core.catalog import Capabilities, Function, FunctionKind, Label, Language, Scope
from troth.core.codes import Code
from troth.core.grammar.addresses import Undeliverable, resolve
from troth.core.limits import FUNCTIONS_LIMIT_COUNT
from troth.core.model import replace
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Parameter, Success, answer, require_account
from troth.http.wire.answers import told
from troth.http.wire.decoding import query_parameters
from troth.http.wire.errors import ApiError, FieldProblem, invalid
from troth.http.wire.json_text import dump
from troth.http.wire.requests import Response, json_response

from .answers import (
    CapabilitiesObject,
    FunctionObject,
    FunctionRowObject,
    Labels,
    NewIdObject,
    capabilities_object,
    function_object,
    function_row,
)
from .entries import Change, change_own, create, delete_own, list_own, read_own
from .function_bodies import (
    CODE_WORDS,
    CapabilitiesBody,
    ChangeFunctionBody,
    CreateFunctionBody,
)
from .markers import Reference, identifier_of
from .paging import PAGING_PARAMETERS, read_paging
from .usage_endpoints import NEVER_USED, function_metrics_object, usage_of
from .values import ID_SCHEMA, new_id


async def create_function(api: Api, call: Call) -> Response:
    """POST /v1/function."""
    account_id = require_account(call)
    body: CreateFunctionBody = call.body
    kind, language = _kind_of(body)
    label_ids = await _own_labels(api, account_id, body.tag or [])
    if len(await list_own(api, Function, account_id)) >= FUNCTIONS_LIMIT_COUNT:
        raise invalid("account", f"has {FUNCTIONS_LIMIT_COUNT} functions, which is the limit")
    now_ms = api.now_ms()
    function = Function(
        new_id(now_ms),
        1,
        now_ms,
        account_id,
        body.name or "",
        kind,
        body.description or "",
        label_ids,
        language,
        body.url or None,
        capabilities=_changed(Capabilities(), body.capabilities or CapabilitiesBody()),
    )
    await create(api, function)
    return answer(Code.CREATED, NewIdObject(function.id))


def _kind_of(body: CreateFunctionBody) -> tuple[FunctionKind, Language | None]:
    """Return what kind of function is asked for. Raises ApiError (400) if that makes no sense."""
    if (body.type or "").upper() in CODE_WORDS:
        problems = []
        if body.lang is None:
            problems.append(FieldProblem("lang", "is required for code and must be PY or JS"))
        if body.url:
            problems.append(FieldProblem("url", "is only for functions of the type HTTP"))
        if problems:
            raise ApiError(Code.INVALID, problems)
        return FunctionKind.CODE, Language((body.lang or "").upper())
    if body.lang is not None:
        raise invalid("lang", "is only for code; functions of the type HTTP have no language")
    _check_url(body.url)
    return FunctionKind.HTTP, None


def _check_url(url: str | None) -> None:
    """Raise ApiError (400) unless this is something that can be called."""
    if not url:
        raise invalid("url", "is required for functions of the type HTTP")
    if not url.lower().startswith(("http://", "https://")):
        raise invalid("url", "must begin with http:// or https://")
    address = resolve(url, {})
    if isinstance(address, Undeliverable):
        raise invalid("url", address.reason)


async def _own_labels(
    api: Api, account_id: str, references: Sequence[Reference | str]
) -> tuple[str, ...]:
    """Return the ids of tags of the account. Raises ApiError (404) for others."""
    label_ids = tuple(identifier_of(reference) for reference in references)
    for label_id in label_ids:
        await read_own(api, Label, label_id, account_id, Code.LABEL_NOT_FOUND)
    return label_ids


async def change_function(api: Api, call: Call) -> Response:
    """PATCH /v1/function/{functionId}."""
    account_id = require_account(call)
    body: ChangeFunctionBody = call.body
    function = await _function(api, call)
    if body.url is not None:
        if function.kind is not FunctionKind.HTTP:
            raise invalid("url", "is only for functions of the type HTTP")
        _check_url(body.url)
    label_ids = None if body.tag is None else await _own_labels(api, account_id, body.tag)

    def change(function: Function) -> Function:
        return replace(
            function,
            name=function.name if body.name is None else body.name,
            description=function.description if body.description is None else body.description,
            url=function.url if body.url is None else body.url,
            label_ids=function.label_ids if label_ids is None else label_ids,
        )

    await change_own(api, Function, function.id, account_id, Code.FUNCTION_NOT_FOUND, change)
    return Response(204)


async def read_function(api: Api, call: Call) -> Response:
    """GET /v1/function/{functionId}."""
    function = await _function(api, call)
    usage = (await usage_of(api, function.account_id)).get(function.id, NEVER_USED)
    labels = await _labels_for(api, [function])
    metrics = function_metrics_object(usage, api.now_ms())
    return answer(Code.OK, function_object(function, labels, metrics))


async def list_functions(api: Api, call: Call) -> Response:
    """GET /v1/function/list."""
    query = query_parameters(call.request.query)
    paging = read_paging(query)
    label_id = query.get("tag")
    functions: Sequence[Function] = await list_own(api, Function, require_account(call))
    if label_id:
        functions = [one for one in functions if label_id in one.label_ids]
    if paging is not None:
        functions = paging.of(functions)
    labels = await _labels_for(api, functions)
    return json_response(200, dump([function_row(function, labels) for function in functions]))


async def toggle_pause(api: Api, call: Call) -> Response:
    """POST /v1/function/{functionId}/togglePause."""

    def change(function: Function) -> Function:
        return replace(function, paused=not function.paused)

    await _change(api, call, change)
    return Response(204)


async def delete_function(api: Api, call: Call) -> Response:
    """DELETE /v1/function/{functionId}."""
    function = await delete_own(
        api, Function, call.path["functionId"], require_account(call), Code.FUNCTION_NOT_FOUND
    )
    if api.builder is not None:
        await api.builder.function_deleted(function)
    return Response(204)


async def read_capabilities(api: Api, call: Call) -> Response:
    """GET /v1/function/{functionId}/capabilities."""
    return answer(Code.OK, capabilities_object((await _function(api, call)).capabilities))


async def change_capabilities(api: Api, call: Call) -> Response:
    """POST /v1/function/{functionId}/capabilities."""
    body: CapabilitiesBody = call.body

    def change(function: Function) -> Function:
        return replace(function, capabilities=_changed(function.capabilities, body))

    await _change(api, call, change)
    return Response(204)


async def _function(api: Api, call: Call) -> Function:
    return await read_own(
        api, Function, call.path["functionId"], require_account(call), Code.FUNCTION_NOT_FOUND
    )


async def _change(api: Api, call: Call, change: Change[Function]) -> None:
    await change_own(
        api,
        Function,
        call.path["functionId"],
        require_account(call),
        Code.FUNCTION_NOT_FOUND,
        change,
    )


def _changed(capabilities: Capabilities, body: CapabilitiesBody) -> Capabilities:
    """Return capabilities with what a body says in place of what they were."""
    given = {
        "timeout_s": body.timeout,
        "cpu_count": body.cpu_count,
        "memory_mb": body.mem_size,
        "network_latency_ms": body.network_latency,
        "privileged": body.privileged,
    }
    return replace(capabilities, **{name: it for name, it in given.items() if it is not None})


async def _labels_for(api: Api, functions: Sequence[Function]) -> Labels:
    """Return the tags that functions of one account have, by id."""
    if not any(function.label_ids for function in functions):
        return {}
    return {label.id: label for label in await list_own(api, Label, functions[0].account_id)}


FUNCTION_LIST = Annotated[list[FunctionRowObject], told("Newest first.")]
FUNCTION_ID = Parameter(
    "functionId", "The function.", ID_SCHEMA, required=True, example="6405848581b16f7a07cd4c48"
)
_GONE = (Code.FUNCTION_NOT_FOUND, Code.ENTRY_CHANGED)

ENDPOINTS = (
    Endpoint(
        name="createFunction",
        group="Functions",
        method="POST",
        path="/v1/function",
        summary="Create a function",
        description=(
            "A function of the type `HTTP` calls a `url` with each task's method, query, "
            "headers and body. For the type `CODE` (or `DOCKER`, which means the same "
            "here), nodes run code in the language `lang`, after it was uploaded as a "
            "build."
        ),
        handler=create_function,
        scope=Scope.FUNCTIONS_WRITE,
        body=CreateFunctionBody,
        successes=(Success(201, "It is made.", NewIdObject),),
        refusals=(Code.LABEL_NOT_FOUND,),
    ),
    Endpoint(
        name="listFunctions",
        group="Functions",
        method="GET",
        path="/v1/function/list",
        summary="List the account's functions",
        description="Newest first; all of them unless `page` or `limit` is given.",
        handler=list_functions,
        scope=Scope.FUNCTIONS_READ,
        query=(
            Parameter("tag", "Only functions with this tag, by its id.", {"type": "string"}),
            *PAGING_PARAMETERS,
        ),
        successes=(Success(200, "The functions.", FUNCTION_LIST),),
    ),
    Endpoint(
        name="readFunction",
        group="Functions",
        method="GET",
        path="/v1/function/{functionId}",
        summary="Read a function",
        handler=read_function,
        scope=Scope.FUNCTIONS_READ,
        path_parameters=(FUNCTION_ID,),
        successes=(Success(200, "The function.", FunctionObject),),
        refusals=(Code.FUNCTION_NOT_FOUND,),
    ),
    Endpoint(
        name="changeFunction",
        group="Functions",
        method="PATCH",
        path="/v1/function/{functionId}",
        summary="Change a function",
        description="Its type and language cannot be changed.",
        handler=change_function,
        scope=Scope.FUNCTIONS_WRITE,
        body=ChangeFunctionBody,
        path_parameters=(FUNCTION_ID,),
        successes=(Success(204, "It is changed."),),
        refusals=(*_GONE, Code.LABEL_NOT_FOUND),
    ),
    Endpoint(
        name="deleteFunction",
        group="Functions",
        method="DELETE",
        path="/v1/function/{functionId}",
        summary="Delete a function",
        description=(
            "New tasks are refused (404). Existing tasks continue and keep their results. "
            "Each build is deleted once no such task needs it."
        ),
        handler=delete_function,
        scope=Scope.FUNCTIONS_WRITE,
        path_parameters=(FUNCTION_ID,),
        successes=(Success(204, "It is gone."),),
        refusals=_GONE,
    ),
    Endpoint(
        name="togglePause",
        group="Functions",
        method="POST",
        path="/v1/function/{functionId}/togglePause",
        summary="Pause or resume a function",
        description="While it is paused, new tasks are refused; existing ones continue.",
        handler=toggle_pause,
        scope=Scope.FUNCTIONS_WRITE,
        path_parameters=(FUNCTION_ID,),
        successes=(Success(204, "The function is paused, or resumed if it was paused."),),
        refusals=_GONE,
    ),
    Endpoint(
        name="readCapabilities",
        group="Functions",
        method="GET",
        path="/v1/function/{functionId}/capabilities",
        summary="Read a function's node requirements",
        handler=read_capabilities,
        scope=Scope.FUNCTIONS_READ,
        path_parameters=(FUNCTION_ID,),
        successes=(Success(200, "The requirements.", CapabilitiesObject),),
        refusals=(Code.FUNCTION_NOT_FOUND,),
    ),
    Endpoint(
        name="changeCapabilities",
        group="Functions",
        method="POST",
        path="/v1/function/{functionId}/capabilities",
        summary="Change a function's node requirements",
        description="Applies to tasks created from now on.",
        handler=change_capabilities,
        scope=Scope.FUNCTIONS_WRITE,
        body=CapabilitiesBody,
        path_parameters=(FUNCTION_ID,),
        successes=(Success(204, "It is changed."),),
        refusals=_GONE,
    ),
)
