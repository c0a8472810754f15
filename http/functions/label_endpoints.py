"""Tags of functions, `/v1/tag`: names that an account gives to several of its functions.

In the code they are labels, since tags are something of promises.
"""

from troth.core.catalog import Function, Label, Scope
from troth.core.codes import Code
from troth.core.limits import LABELS_LIMIT_COUNT
from troth.core.model import replace
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Parameter, Success, answer, require_account
from troth.http.wire.errors import ApiError, invalid
from troth.http.wire.json_text import dump
from troth.http.wire.requests import Response, json_response

from .answers import NewIdObject, TagObject, label_object
from .entries import change_own, create, delete_own, list_own
from .function_bodies import ChangeLabelBody, CreateLabelBody
from .values import ID_SCHEMA, new_id


async def create_label(api: Api, call: Call) -> Response:
    """POST /v1/tag."""
    account_id = require_account(call)
    body: CreateLabelBody = call.body
    if len(await list_own(api, Label, account_id)) >= LABELS_LIMIT_COUNT:
        raise invalid("account", f"has {LABELS_LIMIT_COUNT} tags, which is the limit")
    now_ms = api.now_ms()
    label = Label(new_id(now_ms), 1, now_ms, account_id, body.name or "", body.color or "")
    await create(api, label)
    return answer(Code.CREATED, NewIdObject(label.id))


async def list_labels(api: Api, call: Call) -> Response:
    """GET /v1/tag/list."""
    labels = await list_own(api, Label, require_account(call))
    return json_response(200, dump([label_object(label) for label in labels]))


async def change_label(api: Api, call: Call) -> Response:
    """PATCH /v1/tag/{tagId}."""
    body: ChangeLabelBody = call.body

    def change(label: Label) -> Label:
        return replace(
            label,
            name=label.name if body.name is None else body.name,
            color=label.color if body.color is None else body.color,
        )

    await change_own(
        api, Label, call.path["tagId"], require_account(call), Code.LABEL_NOT_FOUND, change
    )
    return Response(204)


async def delete_label(api: Api, call: Call) -> Response:
    """DELETE /v1/tag/{tagId}."""
    account_id = require_account(call)
    label = await delete_own(api, Label, call.path["tagId"], account_id, Code.LABEL_NOT_FOUND)
    # Answers leave out tags that are gone. So if this ends halfway, clients see no difference.
    for function in await list_own(api, Function, account_id):
        if label.id in function.label_ids:
            await _take_off(api, function, label.id)
    return Response(204)


async def _take_off(api: Api, function: Function, label_id: str) -> None:
    def change(changed: Function) -> Function:
        left = tuple(one for one in changed.label_ids if one != label_id)
        return replace(changed, label_ids=left)

    try:
        await change_own(
            api, Function, function.id, function.account_id, Code.FUNCTION_NOT_FOUND, change
        )
    except ApiError as error:
        if error.code is not Code.FUNCTION_NOT_FOUND:  # deleted in the meantime: nothing to do
            raise


TAG_ID = Parameter(
    "tagId", "The tag.", ID_SCHEMA, required=True, example="641ae3f2c2f41a9a4d3c2f1e"
)

ENDPOINTS = (
    Endpoint(
        name="createTag",
        group="Functions",
        method="POST",
        path="/v1/tag",
        summary="Make a tag",
        handler=create_label,
        scope=Scope.FUNCTIONS_WRITE,
        body=CreateLabelBody,
        successes=(Success(201, "It is made.", NewIdObject),),
    ),
    Endpoint(
        name="listTags",
        group="Functions",
        method="GET",
        path="/v1/tag/list",
        summary="List the account's tags",
        handler=list_labels,
        scope=Scope.FUNCTIONS_READ,
        successes=(Success(200, "All of them.", list[TagObject]),),
    ),
    Endpoint(
        name="changeTag",
        group="Functions",
        method="PATCH",
        path="/v1/tag/{tagId}",
        summary="Change a tag",
        handler=change_label,
        scope=Scope.FUNCTIONS_WRITE,
        body=ChangeLabelBody,
        path_parameters=(TAG_ID,),
        successes=(Success(204, "It is changed."),),
        refusals=(Code.LABEL_NOT_FOUND, Code.ENTRY_CHANGED),
    ),
    Endpoint(
        name="deleteTag",
        group="Functions",
        method="DELETE",
        path="/v1/tag/{tagId}",
        summary="Delete a tag",
        description="It is removed from the functions that have it.",
        handler=delete_label,
        scope=Scope.FUNCTIONS_WRITE,
        path_parameters=(TAG_ID,),
        successes=(Success(204, "It is gone."),),
        refusals=(Code.LABEL_NOT_FOUND, Code.ENTRY_CHANGED),
    ),
)
