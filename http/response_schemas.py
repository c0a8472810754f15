"""The JSON Schemas of all answers, as `/openapi.json` shows them. `rendering.py` makes what they
say.

Tests check real answers and every example against them, with no further keys allowed.
"""

from typing import Any

from troth.core.codes import Code
from troth.core.limits import INTEGER_MAX, INTEGER_MIN
from troth.core.model import PromiseState

from .fields import JSON_SCHEMA, Schema
from .rendering import NEVER_MS

_TIME_MS = 1767225600000
_ID = "order/42"


def _text(description: str, example: str) -> Schema:
    return {"type": "string", "description": description, "examples": [example]}


def _integer(description: str, example: int) -> Schema:
    return {
        "type": "integer",
        "format": "int64",
        "minimum": INTEGER_MIN,
        "maximum": INTEGER_MAX,
        "description": description,
        "examples": [example],
    }


def _map(description: str, example: dict[str, str]) -> Schema:
    return {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": description,
        "examples": [example],
    }


def _object(about: str, optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object. Its properties are required but for the named ones."""
    return {
        "type": "object",
        "description": about,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(name: str) -> Schema:
    return {"anyOf": [_reference(name), {"type": "null"}]}


def _time(description: str) -> Schema:
    return _integer(f"{description}, in milliseconds since 1970.", _TIME_MS)


def _list(description: str, name: str) -> Schema:
    return {"type": "array", "description": description, "items": _reference(name)}


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
    "Value": _object(
        "A promise's param or value; empty parts are absent.",
        ("headers", "data"),
        headers=_map("Names and values of the client's choice.", {"kind": "greeting"}),
        data=_text("Bytes in standard base64.", "aGVsbG8="),
    ),
    "Promise": _object(
        "A promise.",
        ("idempotencyKeyForCreate", "idempotencyKeyForComplete", "tags", "completedOn"),
        id=_text("The id.", _ID),
        state={
            "type": "string",
            "enum": [state.value for state in PromiseState],
            "description": "All but PENDING are final.",
            "examples": ["PENDING"],
        },
        param=_reference("Value"),
        value=_reference("Value"),
        timeout=_time("When it times out"),
        idempotencyKeyForCreate=_text("The key it was created with.", "create-42"),
        idempotencyKeyForComplete=_text("The key it was completed with.", "complete-42"),
        tags=_map("Tags; absent if there are none.", {"team": "orders"}),
        createdOn=_time("When it was created"),
        completedOn=_time("When it completed; absent while it is pending"),
    ),
    "Task": _object(
        "A task.",
        ("processId", "createdOn", "completedOn"),
        id=_text("The id.", "__invoke:order/42"),
        counter=_integer("How often it was given out; the fence.", 1),
        timeout=_time("When it is given up"),
        rootPromiseId=_text("The promise whose work it is.", _ID),
        processId=_text("Who claimed it last.", "worker-1"),
        createdOn=_time("When it was created"),
        completedOn=_time("When it ended"),
    ),
    "PromiseAndTask": _object(
        "A promise and its task.", promise=_reference("Promise"), task=_or_null("Task")
    ),
    "Callback": _object(
        "A callback or subscription.",
        id=_text("The id of the task that will be made.", "__resume:order/41:order/42"),
        promiseId=_text("The promise that is waited for.", _ID),
        rootPromiseId=_text("The promise that goes on then.", "order/41"),
        timeout=_time("When delivery is given up"),
        createdOn=_time("When it was created"),
    ),
    "CallbackAnswer": _object(
        "The callback, if it was made now, and the promise it waits for.",
        callback=_or_null("Callback"),
        promise=_reference("Promise"),
    ),
    "Schedule": _object(
        "A schedule.",
        ("description", "promiseTags", "lastRunTime", "idempotencyKey"),
        id=_text("The id.", "nightly"),
        description=_text("For people.", "Close the books"),
        cron=_text("When it fires.", "0 3 * * *"),
        tags=_map("Tags.", {"team": "orders"}),
        promiseId=_text("What the promises' ids are made from.", "nightly.{{.timestamp}}"),
        promiseTimeout=_integer("Milliseconds from firing to the promise's timeout.", 3_600_000),
        promiseParam=_reference("Value"),
        promiseTags=_map("The promises' tags.", {"team": "orders"}),
        lastRunTime=_time("When it fired last"),
        nextRunTime=_time(f"When it fires next ({NEVER_MS}: never)"),
        idempotencyKey=_text("The key it was created with.", "create-nightly"),
        createdOn=_time("When it was created"),
    ),
    "Lock": _object(
        "A lock.",
        resourceId=_text("What is locked.", "printer"),
        executionId=_text("Who holds it.", "run-7"),
        processId=_text("Whose heartbeats renew it.", "worker-1"),
        ttl=_integer("Milliseconds from each renewal to its end.", 60_000),
        expiresAt=_time("When it ends unless renewed"),
    ),
    "ClaimedPromise": _object(
        "A promise that a claimed task is about; `data` is null if there is no such promise.",
        data=_or_null("Promise"),
        href=_text("Where to read it.", "http://127.0.0.1:8001/promises/order/42"),
        id=_text("Its id.", _ID),
    ),
    "Claim": _object(
        "What a claim hands over.",
        promises=_object(
            "The promise to work on and, for `resume`, the one that has completed.",
            ("leaf",),
            leaf=_reference("ClaimedPromise"),
            root=_reference("ClaimedPromise"),
        ),
        type={
            "type": "string",
            "enum": ["invoke", "resume", "notify"],
            "description": "What kind of work this is.",
            "examples": ["invoke"],
        },
    ),
    "PromisePage": _object(
        "A page of promises.", cursor=_CURSOR, promises=_list("Newest first.", "Promise")
    ),
    "SchedulePage": _object(
        "A page of schedules.", cursor=_CURSOR, schedules=_list("Newest first.", "Schedule")
    ),
    "TasksAffected": _object("A count.", tasksAffected=_integer("How many tasks were renewed.", 1)),
    "LocksAffected": _object("A count.", locksAffected=_integer("How many locks were renewed.", 1)),
    "Imported": _object(
        "What became of one promise.",
        id=_text("Its id.", _ID),
        result={
            "type": "string",
            "enum": ["created", "present", "conflict"],
            "description": (
                "`present`: it was here already. `conflict`: another promise has its id; it stays."
            ),
            "examples": ["created"],
        },
    ),
    "ImportOutcome": _object(
        "What became of the promises.", promises=_list("As in the request.", "Imported")
    ),
    "RetainedByRule": _object(
        "One rule.",
        rule=_text("The rule.", "resolved:7d"),
        count=_integer("How many promises it has deleted, or would delete.", 3),
    ),
    "RetentionOutcome": _object(
        "What retention did.",
        dryRun={
            "type": "boolean",
            "description": "Whether promises were only counted.",
            "examples": [True],
        },
        rules=_list("The rules, in order.", "RetainedByRule"),
        waiting=_integer("Promises that were due, but something unfinished is about them.", 0),
        durationMs=_integer("How long it took, in milliseconds.", 12),
    ),
    "Status": _object("A word.", status=_text("`ok` or `ready`.", "ok")),
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
    "ErrorDetail": _object(
        "One thing that is wrong.",
        (),
        **{"@type": _BLAME},
        message=_text("For people.", "id: is required and must not be empty"),
        domain={
            "type": "string",
            "enum": ["request", "server"],
            "description": "Whose fault it is.",
            "examples": ["request"],
        },
        metadata=_object(
            "More about it.",
            ("field", "requestId"),
            field=_text("Which field is wrong.", "id"),
            url=_text("Where the code is explained.", "http://127.0.0.1:8001/docs/errors#40000"),
            requestId=_text("The request's id, as in the log.", "a1b2c3"),
        ),
    ),
    "Error": _object(
        "A refusal.",
        error=_object(
            "What is wrong.",
            code={
                "type": "integer",
                "enum": [code.value for code in Code if code.status >= 400],
                "description": "A code that `/docs/errors` explains; its first three digits are "
                "the HTTP status.",
                "examples": [Code.INVALID.value],
            },
            message=_text("The code in words.", "The request is invalid"),
            details=_list("At least one.", "ErrorDetail"),
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
    if schema["type"] == "array":
        return [example_of(schema["items"])]
    if schema["type"] == "object":
        return {name: example_of(inner) for name, inner in schema.get("properties", {}).items()}
    return "…"
