"""Builds, `/v1/build`: a function's code as a zip archive, uploaded, checked, handed to nodes.

What becomes of a build after its upload is in `builder.py`, what a package may hold in
`packages.py`.
"""

import base64
import hashlib
from typing import Final

from troth.core.catalog import (
    Build,
    BuildStatus,
    BuildStep,
    Function,
    FunctionKind,
    Node,
    Scope,
    package_id,
)
from troth.core.codes import Code
from troth.core.commands import ReadEntry, ReadPromise
from troth.http.api.context import Api
from troth.http.api.rows import (
    Call,
    Endpoint,
    Parameter,
    RawBody,
    Success,
    answer,
    require_account,
)
from troth.http.api.shards_port import answered, ask
from troth.http.wire.decoding import query_parameters
from troth.http.wire.errors import ApiError, invalid
from troth.http.wire.requests import Response

from .answers import PACKAGE, BuildObject, BuildPageObject, NewIdObject, build_object, build_row
from .entries import list_own, read_own
from .function_endpoints import FUNCTION_ID
from .paging import FIRST_PAGE, PAGING_PARAMETERS, read_paging
from .values import ID_SCHEMA, new_id

ARCHITECTURE: Final = "amd64"
_UPLOAD_TYPES: Final = ("application/octet-stream", "application/zip")
_ABSENT: Final = frozenset({Code.ENTRY_NOT_FOUND, Code.PROMISE_NOT_FOUND})


async def create_build(api: Api, call: Call) -> Response:
    """POST /v1/build/{functionId}."""
    account_id = require_account(call)
    function = await read_own(
        api, Function, call.path["functionId"], account_id, Code.FUNCTION_NOT_FOUND
    )
    package = _package_in(api, call)
    if function.kind is not FunctionKind.CODE:
        raise invalid("path functionId", "is a function of the type HTTP, which has no code")
    if api.builder is None:
        raise ApiError(Code.STARTING)
    now_ms = api.now_ms()
    build = Build(
        new_id(now_ms),
        1,
        now_ms,
        account_id,
        function.id,
        BuildStatus.PENDING,
        hashlib.sha256(package).hexdigest(),
        len(package),
        ARCHITECTURE,
        (BuildStep(BuildStatus.PENDING, now_ms),),
    )
    await api.builder.take(build, package)
    return answer(Code.CREATED, NewIdObject(build.id))


def _package_in(api: Api, call: Call) -> bytes:
    """Return the package that a request carries. Raises ApiError (400, 413)."""
    architecture = query_parameters(call.request.query).get("arch") or ARCHITECTURE
    if architecture != ARCHITECTURE:
        raise invalid("query arch", f"must be {ARCHITECTURE} (got {architecture[:64]!r})")
    given = call.request.headers.get(b"content-type", _UPLOAD_TYPES[0].encode())
    media_type = given.partition(b";")[0].strip().lower().decode("latin-1")
    if media_type not in _UPLOAD_TYPES:
        allowed = " or ".join(_UPLOAD_TYPES)
        raise invalid("header Content-Type", f"must be {allowed} (got {media_type[:64]!r})")
    package = call.request.body
    if not package:
        raise invalid("body", "is empty; a zip archive is required")
    limit_bytes = api.settings.build_limit_bytes
    if len(package) > limit_bytes:
        message = f"The archive is longer than {limit_bytes} bytes (setting `build_limit_bytes`)."
        raise ApiError(Code.BODY_TOO_LARGE, message=message)
    return package


async def read_build(api: Api, call: Call) -> Response:
    """GET /v1/build/{buildId}."""
    build = await read_own(
        api, Build, call.path["buildId"], require_account(call), Code.BUILD_NOT_FOUND
    )
    return answer(Code.OK, build_object(build))


async def list_builds(api: Api, call: Call) -> Response:
    """GET /v1/build/list."""
    query = query_parameters(call.request.query)
    paging = read_paging(query) or FIRST_PAGE
    function_id = query.get("functionId")
    builds = [
        build
        for build in await list_own(api, Build, require_account(call))
        if not function_id or build.function_id == function_id
    ]
    rows = [build_row(build) for build in paging.of(builds)]
    page_count = paging.page_count(len(builds))
    return answer(Code.OK, BuildPageObject(page_count, paging.limit_count, len(builds), rows))


async def read_package(api: Api, call: Call) -> Response:
    """GET /v1/build/{buildId}/archive."""
    account_id = require_account(call)
    reply = await ask(api.shards, ReadEntry(call.path["buildId"]), tolerated=_ABSENT)
    build = reply.entry
    if not isinstance(build, Build) or not (
        build.account_id == account_id
        or (
            Scope.NODE in call.request.principal.scopes
            and await _is_with_node_of(api, build, account_id)
        )
    ):
        raise ApiError(Code.BUILD_NOT_FOUND)
    read = ReadPromise(package_id(build.id))
    promise = (await ask(api.shards, read, tolerated=_ABSENT)).promise
    if promise is None:  # it is being stored or removed
        raise ApiError(Code.BUILD_NOT_FOUND)
    headers = [
        (b"content-type", b"application/zip"),
        (b"etag", f'"{build.digest}"'.encode()),
    ]
    return Response(200, base64.b64decode(promise.value.data or ""), headers)


async def _is_with_node_of(api: Api, build: Build, account_id: str) -> bool:
    """Return whether a shared node of an account is running an execution of this build."""
    holders = (await answered(api.builds_in_use())).get(build.id)
    if not holders:
        return False
    nodes = await list_own(api, Node, account_id)
    return any(node.id in holders and node.shared and not node.deleted for node in nodes)


_BUILD_ID = Parameter(
    "buildId", "The build.", ID_SCHEMA, required=True, example="65fa2a3bc2f41a9a4d3c2f1e"
)

ENDPOINTS = (
    Endpoint(
        name="createBuild",
        group="Builds",
        method="POST",
        path="/v1/build/{functionId}",
        summary="Upload a function's code",
        description=(
            "The contents of the function's folder, zipped: `handler.py` with a function "
            "`handle`, or `handler.js` or `handler.mjs` that exports one, and the files "
            "they need. It is checked after this answer; if its status becomes SUCCESS, "
            "tasks created from then on run it. Nothing is installed: libraries must be in "
            "the archive."
        ),
        handler=create_build,
        scope=Scope.FUNCTIONS_WRITE,
        raw_body=RawBody("A zip archive.", _UPLOAD_TYPES),
        path_parameters=(FUNCTION_ID,),
        query=(
            Parameter(
                "arch",
                "The target architecture; the same code runs everywhere.",
                {"type": "string", "enum": [ARCHITECTURE]},
                example=ARCHITECTURE,
            ),
        ),
        successes=(Success(201, "The build is stored and will be checked.", NewIdObject),),
        refusals=(Code.FUNCTION_NOT_FOUND,),
    ),
    Endpoint(
        name="listBuilds",
        group="Builds",
        method="GET",
        path="/v1/build/list",
        summary="List the account's builds",
        description="Newest first.",
        handler=list_builds,
        scope=Scope.FUNCTIONS_READ,
        query=(
            Parameter("functionId", "Only builds of this function.", {"type": "string"}),
            *PAGING_PARAMETERS,
        ),
        successes=(Success(200, "A page of builds.", BuildPageObject),),
    ),
    Endpoint(
        name="readBuild",
        group="Builds",
        method="GET",
        path="/v1/build/{buildId}",
        summary="Read a build",
        handler=read_build,
        scope=Scope.FUNCTIONS_READ,
        path_parameters=(_BUILD_ID,),
        successes=(Success(200, "The build.", BuildObject),),
        refusals=(Code.BUILD_NOT_FOUND,),
    ),
    Endpoint(
        name="readArchive",
        answers_much=True,
        group="Builds",
        method="GET",
        path="/v1/build/{buildId}/archive",
        summary="Download a build's archive",
        description=(
            "For nodes: builds of their own account, and for a shared node those of the "
            "tasks that it is running. With `functions:read`, also the caller's own."
        ),
        handler=read_package,
        scope=Scope.NODE,
        or_scope=Scope.FUNCTIONS_READ,
        path_parameters=(_BUILD_ID,),
        successes=(Success(200, "The uploaded archive.", PACKAGE, "application/zip"),),
        refusals=(Code.BUILD_NOT_FOUND,),
    ),
)
