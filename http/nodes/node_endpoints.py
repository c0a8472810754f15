"""Nodes: `/v1/node`, as GreenCloud's documentation has it, and a little more (greencloud.md 10).

A node registers itself and belongs to its token's account. `node_work_endpoints.py` has what it
does once it is connected. `Placement` decides where executions go, and is told of every change
here.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from troth.core import limits
from troth.core.catalog import Capabilities, Language, Node, Scope
from troth.core.codes import Code
from troth.core.model import replace
from troth.http.api.context import Api
from troth.http.api.rows import (
    Call,
    Endpoint,
    Handler,
    Parameter,
    RawBody,
    Success,
    require_account,
    require_scope,
)
from troth.http.executions.calls import SERVER_NODE_ID
from troth.http.functions.entries import change_own, create
from troth.http.wire.bodies import BodyDecoder
from troth.http.wire.errors import ApiError, invalid
from troth.http.wire.json_text import dump
from troth.http.wire.requests import Response, json_response
from troth.shards.placement.executions import NodePlace

from .answers import NodeObject, node_object
from .node_bodies import ChangeNodeBody, RegisterNodeBody

_HASH: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def register_node(api: Api, call: Call) -> Response:
    """POST /v1/node/{hash}."""
    body: RegisterNodeBody = call.body
    node_id = call.path["hash"].lower()
    if not _HASH.fullmatch(node_id):
        raise invalid("path hash", f"must be a UUID with dashes (got {node_id[:64]!r})")
    if node_id == SERVER_NODE_ID:
        # A node with it could report, and end, every account's executions of HTTP functions.
        raise invalid("path hash", "is reserved for the server")
    account_id = require_account(call)
    if body.shared:
        require_scope(call, Scope.ADMIN)
    node = Node(
        id=node_id,
        revision=1,
        created_on=api.now_ms(),
        account_id=account_id,
        description=body.description or "",
        languages=tuple(
            language
            for language in Language
            if language in [given.upper() for given in body.languages or ()]
        ),
        offers=Capabilities(
            cpu_count=body.cpu_count or 0,
            memory_mb=body.mem_size or 0,
            network_latency_ms=body.network_latency or 0,
            privileged=bool(body.privileged),
        ),
        slots_count=body.slots or 1,
        shared=bool(body.shared),
    )
    placement = api.function_placement
    if node_id in placement.nodes:
        node_of(api, call)

        def change(entry: Node) -> Node | None:
            if entry.deleted:
                raise ApiError(Code.NODE_NOT_FOUND)
            return replace(
                node,
                created_on=entry.created_on,
                description=entry.description if body.description is None else node.description,
                revision=entry.revision,
                disabled=entry.disabled,
                draining=entry.draining,
            )

        node = await change_own(api, Node, node_id, account_id, Code.NODE_NOT_FOUND, change)
    else:
        own = [one for one in placement.nodes.values() if one.entry.account_id == account_id]
        if len(own) >= limits.NODES_LIMIT_COUNT:
            problem = f"the account already has {len(own)} nodes, which is the limit"
            raise invalid("path hash", problem)
        await create(api, node)
    placement.put_node(node)
    return Response(201)


async def list_nodes(api: Api, call: Call) -> Response:
    """GET /v1/node/list."""
    account_id = require_account(call)
    rows = [
        node_object(node)
        for node in api.function_placement.nodes.values()
        if node.entry.account_id == account_id and not node.entry.deleted
    ]
    return json_response(200, dump(rows))


async def delete_node(api: Api, call: Call) -> Response:
    """DELETE /v1/node/{hash}."""
    node = node_of(api, call)
    async with api.audit.act(call.request, "node.delete", node=node.id):
        await _change(api, call, lambda entry: replace(entry, deleted=True))
    return Response(204)


async def change_node(api: Api, call: Call) -> Response:
    """PATCH /v1/node/{hash}."""
    node_id = call.path["hash"].lower()
    if not call.request.body:
        # Nodes of others are not noted: a client that invents names could fill the audit log.
        _kept_node_of(api, call)
        async with api.audit.act(call.request, "node.restore", node=node_id):
            await _change(api, call, lambda entry: replace(entry, deleted=False))
        return Response(200)
    body = BodyDecoder(ChangeNodeBody, api.limits).decode(call.request.body)
    node_of(api, call)

    def change(entry: Node) -> Node:
        return replace(
            entry,
            description=entry.description if body.description is None else body.description,
            disabled=entry.disabled if body.disabled is None else body.disabled,
            draining=entry.draining if body.draining is None else body.draining,
        )

    told = {"node": node_id, "disabled": body.disabled, "draining": body.draining}
    async with api.audit.act(call.request, "node.change", **told):
        await _change(api, call, change)
    return Response(200)


async def _change(api: Api, call: Call, change: Callable[[Node], Node]) -> None:
    changed = await change_own(
        api,
        Node,
        call.path["hash"].lower(),
        require_account(call),
        Code.NODE_NOT_FOUND,
        change,
    )
    api.function_placement.put_node(changed)


def node_of(api: Api, call: Call) -> NodePlace:
    """Return the node in the path, if it is the sender's. Raises ApiError (404)."""
    node = _kept_node_of(api, call)
    if node.entry.deleted:
        raise ApiError(Code.NODE_NOT_FOUND)
    return node


def _kept_node_of(api: Api, call: Call) -> NodePlace:
    """Do as `node_of`, but accept a deleted node."""
    node = api.function_placement.nodes.get(call.path["hash"].lower())
    if node is None or node.entry.account_id != require_account(call):
        raise ApiError(Code.NODE_NOT_FOUND)
    return node


HASH_PATH: Final = (
    Parameter(
        "hash",
        "The node's id, a UUID with dashes that the node generated.",
        {"type": "string", "format": "uuid"},
        required=True,
        example="1a061cfd-df01-4b02-a067-5122c5941e15",
    ),
)


def node_endpoint(
    name: str, method: str, path: str, summary: str, handler: Handler, **more: Any
) -> Endpoint:
    """Return a row for nodes."""
    made = {"group": "Nodes", "path_parameters": HASH_PATH, "refusals": (Code.NODE_NOT_FOUND,)}
    return Endpoint(
        name=name,
        method=method,
        path=f"/v1/node/{path}",
        summary=summary,
        handler=handler,
        scope=Scope.NODE,
        **{**made, **more},
    )


ENDPOINTS = (
    node_endpoint(
        "registerNode",
        "POST",
        "{hash}",
        "Register a node, or update what it offers",
        register_node,
        description=(
            "A node runs its account's functions. A shared node runs those of all accounts "
            "and takes the scope `admin`. A deleted node stays deleted until it is "
            "restored."
        ),
        body=RegisterNodeBody,
        successes=(Success(201, "The node is registered."),),
    ),
    node_endpoint(
        "listNodes",
        "GET",
        "list",
        "List the account's nodes",
        list_nodes,
        path_parameters=(),
        refusals=(),
        successes=(Success(200, "All nodes except deleted ones.", list[NodeObject]),),
    ),
    node_endpoint(
        "deleteNode",
        "DELETE",
        "{hash}",
        "Delete a node",
        delete_node,
        description="Its stream ends and it is given no more tasks. It can be restored.",
        successes=(Success(204, "It is deleted."),),
    ),
    node_endpoint(
        "changeNode",
        "PATCH",
        "{hash}",
        "Restore or change a node",
        change_node,
        description=(
            "Without a body, restores a deleted node. With one, disables, drains or "
            "describes the node. A draining node is given no more tasks."
        ),
        raw_body=RawBody(
            "JSON with any of `description`, `disabled`, `draining`; or nothing.",
            ("application/json",),
            required=False,
            body=ChangeNodeBody,
        ),
        successes=(Success(200, "The node is changed as requested."),),
    ),
)
