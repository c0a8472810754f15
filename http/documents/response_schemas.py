"""The JSON Schemas of all answers, as `/openapi.json` shows them. `rendering.py` makes what they
say.

Tests check real answers and every example against them, with no further keys allowed.
"""

from typing import Any

from troth.core.codes import Code
from troth.core.model import PromiseState
from troth.http.admin.account_schemas import SCHEMAS as ACCOUNT_SCHEMAS
from troth.http.executions.execution_schemas import EXECUTION_SCHEMAS
from troth.http.functions.function_schemas import FUNCTION_SCHEMAS
from troth.http.promises.rendering import NEVER_MS
from troth.http.wire.fields import JSON_SCHEMA, Schema
from troth.http.wire.schema_parts import (
    integer,
    list_of,
    map_of,
    object_of,
    or_null,
    reference,
    text,
    time_ms,
)

_ID = "order/42"


_CURSOR: Schema = {
    "type": ["string", "null"],
    "description": "For the next page; null if there is none.",
    "examples": [None],
}

_BLAME: Schema = {
    "type": "string",
    "enum": ["FieldValidationError", "RequestError", "ServerError"],
    "description": "Whether a field, the request or the server is to blame.",
    "examples": ["FieldValidationError"],
}

SCHEMAS: dict[str, Schema] = {
    "Json": JSON_SCHEMA,
    "Value": object_of(
        "A promise's param or value; empty parts are absent.",
        ("headers", "data"),
        headers=map_of("Names and values of the client's choice.", {"kind": "greeting"}),
        data=text("Bytes in standard base64.", "aGVsbG8="),
    ),
    "Promise": object_of(
        "A promise.",
        ("idempotencyKeyForCreate", "idempotencyKeyForComplete", "tags", "completedOn"),
        id=text("The id.", _ID),
        state={
            "type": "string",
            "enum": [state.value for state in PromiseState],
            "description": "All but PENDING are final.",
            "examples": ["PENDING"],
        },
        param=reference("Value"),
        value=reference("Value"),
        timeout=time_ms("When it times out"),
        idempotencyKeyForCreate=text("The key it was created with.", "create-42"),
        idempotencyKeyForComplete=text("The key it was completed with.", "complete-42"),
        tags=map_of("Tags; absent if there are none.", {"team": "orders"}),
        createdOn=time_ms("When it was created"),
        completedOn=time_ms("When it completed; absent while it is pending"),
    ),
    "Task": object_of(
        "A task.",
        ("processId", "createdOn", "completedOn"),
        id=text("The id.", "__invoke:order/42"),
        counter=integer("How often it was given out; the fence.", 1),
        timeout=time_ms("When it is given up"),
        rootPromiseId=text("The promise whose work it is.", _ID),
        processId=text("Who claimed it last.", "worker-1"),
        createdOn=time_ms("When it was created"),
        completedOn=time_ms("When it ended"),
    ),
    "PromiseAndTask": object_of(
        "A promise and its task.", promise=reference("Promise"), task=or_null("Task")
    ),
    "Callback": object_of(
        "A callback or subscription.",
        id=text("The id of the task that will be made.", "__resume:order/41:order/42"),
        promiseId=text("The promise that is waited for.", _ID),
        rootPromiseId=text("The promise that goes on then.", "order/41"),
        timeout=time_ms("When delivery is given up"),
        createdOn=time_ms("When it was created"),
    ),
    "CallbackAnswer": object_of(
        "The callback, if it was made now, and the promise it waits for.",
        callback=or_null("Callback"),
        promise=reference("Promise"),
    ),
    "Schedule": object_of(
        "A schedule.",
        ("description", "promiseTags", "lastRunTime", "idempotencyKey"),
        id=text("The id.", "nightly"),
        description=text("For people.", "Close the books"),
        cron=text("When it fires.", "0 3 * * *"),
        tags=map_of("Tags.", {"team": "orders"}),
        promiseId=text("What the promises' ids are made from.", "nightly.{{.timestamp}}"),
        promiseTimeout=integer("Milliseconds from firing to the promise's timeout.", 3_600_000),
        promiseParam=reference("Value"),
        promiseTags=map_of("The promises' tags.", {"team": "orders"}),
        lastRunTime=time_ms("When it fired last"),
        nextRunTime=time_ms(f"When it fires next ({NEVER_MS}: never)"),
        idempotencyKey=text("The key it was created with.", "create-nightly"),
        createdOn=time_ms("When it was created"),
    ),
    "Lock": object_of(
        "A lock.",
        resourceId=text("What is locked.", "printer"),
        executionId=text("Who holds it.", "run-7"),
        processId=text("Whose heartbeats renew it.", "worker-1"),
        ttl=integer("Milliseconds from each renewal to its end.", 60_000),
        expiresAt=time_ms("When it ends unless renewed"),
    ),
    "ClaimedPromise": object_of(
        "A promise that a claimed task is about; `data` is null if there is no such promise.",
        data=or_null("Promise"),
        href=text("Where to read it.", "http://127.0.0.1:8001/promises/order/42"),
        id=text("Its id.", _ID),
    ),
    "Claim": object_of(
        "What a claim hands over.",
        promises=object_of(
            "The promise to work on and, for `resume`, the one that has completed.",
            ("leaf",),
            leaf=reference("ClaimedPromise"),
            root=reference("ClaimedPromise"),
        ),
        type={
            "type": "string",
            "enum": ["invoke", "resume", "notify"],
            "description": "What kind of work this is.",
            "examples": ["invoke"],
        },
    ),
    "PromisePage": object_of(
        "A page of promises.", cursor=_CURSOR, promises=list_of("Newest first.", "Promise")
    ),
    "SchedulePage": object_of(
        "A page of schedules.", cursor=_CURSOR, schedules=list_of("Newest first.", "Schedule")
    ),
    "TasksAffected": object_of(
        "A count.", tasksAffected=integer("How many tasks were renewed.", 1)
    ),
    "LocksAffected": object_of(
        "A count.", locksAffected=integer("How many locks were renewed.", 1)
    ),
    "Imported": object_of(
        "What became of one promise.",
        id=text("Its id.", _ID),
        result={
            "type": "string",
            "enum": ["created", "present", "conflict"],
            "description": (
                "`present`: it was here already. `conflict`: another promise has its id; it stays."
            ),
            "examples": ["created"],
        },
    ),
    "ImportOutcome": object_of(
        "What became of the promises.", promises=list_of("As in the request.", "Imported")
    ),
    "RetainedByRule": object_of(
        "One rule.",
        rule=text("The rule.", "resolved:7d"),
        count=integer("How many promises it has deleted, or would delete.", 3),
    ),
    "RetentionOutcome": object_of(
        "What retention did.",
        dryRun={
            "type": "boolean",
            "description": "Whether promises were only counted.",
            "examples": [True],
        },
        rules=list_of("The rules, in order.", "RetainedByRule"),
        waiting=integer("Promises that were due, but something unfinished is about them.", 0),
        durationMs=integer("How long it took, in milliseconds.", 12),
    ),
    **FUNCTION_SCHEMAS,
    **EXECUTION_SCHEMAS,
    **ACCOUNT_SCHEMAS,
    "Status": object_of(
        "A word.",
        ("clock",),
        status=text("`ok` or `ready`.", "ok"),
        clock=text(
            "That the wall clock was set while the server ran, and by how much; else not there.",
            "the wall clock was set by -86395000 ms while the server ran",
        ),
    ),
    "Text": {"type": "string", "description": "Text."},
    "AnyObject": {"type": "object", "description": "An OpenAPI description."},
    "Message": {
        "type": "string",
        "description": (
            "Server-sent events. Each is one message as JSON: `type` is `invoke` or `resume`, with "
            "`task` and `href`, or `notify`, with `promise`."
        ),
        "examples": [
            'data: {"href":{"claim":"…"},"task":{"id":"__invoke:order/42","counter":1},'
            '"type":"invoke"}\n\n'
        ],
    },
    "ErrorDetail": object_of(
        "One thing that is wrong.",
        (),
        **{"@type": _BLAME},
        message=text("For people.", "id: is required and must not be empty"),
        domain={
            "type": "string",
            "enum": ["request", "server"],
            "description": "Whose fault it is.",
            "examples": ["request"],
        },
        metadata=object_of(
            "More about it.",
            ("field", "requestId"),
            field=text("Which field is wrong.", "id"),
            url=text("Where the code is explained.", "http://127.0.0.1:8001/docs/errors#40000"),
            requestId=text("The request's id, as in the log.", "a1b2c3"),
        ),
    ),
    "Error": object_of(
        "A refusal.",
        error=object_of(
            "What is wrong.",
            code={
                "type": "integer",
                "enum": [code.value for code in Code if code.status >= 400],
                "description": "A code that `/docs/errors` explains; its first three digits are "
                "the HTTP status.",
                "examples": [Code.INVALID.value],
            },
            message=text("The code in words.", "The request is invalid"),
            details=list_of("At least one.", "ErrorDetail"),
        ),
    ),
}
"""By name. Within, schemas refer to each other as OpenAPI's components do."""


def example_of(schema: Schema) -> Any:
    """An example of a schema, with everything optional in it."""
    if "$ref" in schema:
        return example_of(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "examples" in schema:
        return schema["examples"][0]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0])
    if schema.get("type") == "array":
        return [example_of(schema["items"])]
    if schema.get("type") == "object":
        return {name: example_of(inner) for name, inner in schema.get("properties", {}).items()}
    return "…"
