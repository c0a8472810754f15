"""The bodies of all requests: types for the decoder, markers for validation and documentation.

JSON names are the fields' names in camel case. Every field may be null or absent as far as decoding
goes; the markers say what is required. Bodies that a request may have hundreds of are not for the
garbage collector (`gc=False`): none can be part of a cycle.
"""

from typing import Annotated

from msgspec import Raw, Struct
from msgspec import field as struct_field

from troth.core import limits
from troth.core.lifecycles import COMPLETION_STATES, FINAL_STATES, PENDING
from troth.http.wire.fields import (
    AnyJson,
    Base64,
    BodyList,
    Choice,
    Flag,
    Integer,
    Nested,
    OptionalNested,
    StringMap,
    Text,
)

_FAR_MS = 4102444800000  # the year 2100
_RECEIVER = (
    "Where the message goes: the name of a configured target, a URL (`poll://any@group/id`, "
    '`https://…`), or an object `{"type": …, "data": …}`.'
)

# Fields that several bodies have.
_Strings = dict[str, str | None] | None
_PromiseId = Annotated[str | None, Text("The promise's id.", "order/42", required=True)]
_AwaitedId = Annotated[
    str | None, Text("The promise that is waited for.", "order/42", required=True)
]
_ProcessId = Annotated[
    str | None, Text("The process that claims the task.", "worker-1", required=True)
]
_LeaseTime = Annotated[
    int | None,
    Integer(
        "For how many milliseconds, unless renewed by a heartbeat; at least 500.", 60_000, minimum=0
    ),
]
_DeliveryTime = Annotated[
    int | None, Integer("When to give up delivering, in milliseconds since 1970.", _FAR_MS)
]
_Receiver = Annotated[Raw, AnyJson(_RECEIVER, "poll://any@default/worker-1", required=True)]


class ValueBody(Struct, gc=False):
    """A promise's param or value."""

    headers: Annotated[
        _Strings,
        StringMap("Names and values of your choice.", {"kind": "greeting"}, tags=False),
    ] = None
    data: Annotated[
        str | None,
        Base64("Bytes of your choice, in standard base64 with padding.", "aGVsbG8="),
    ] = None


class CreatePromiseBody(Struct, rename="camel", gc=False):
    """The new promise."""

    id: _PromiseId = None
    timeout: Annotated[
        int | None,
        Integer(
            "When the promise times out, in milliseconds since 1970. Absent means 0, which "
            "has passed.",
            _FAR_MS,
        ),
    ] = None
    param: Annotated[ValueBody | None, Nested("What the promise is about.", body=ValueBody)] = None
    tags: Annotated[
        _Strings,
        StringMap(
            "For search and routing. `resonate:invoke` names the receiver of the work.",
            {"team": "orders"},
        ),
    ] = None


class ClaimBody(Struct, rename="camel"):
    """The claim of the new task."""

    process_id: _ProcessId = None
    ttl: _LeaseTime = None


class CreatePromiseAndTaskBody(Struct, rename="camel"):
    """A new promise, with a claim of its task."""

    promise: Annotated[
        CreatePromiseBody | None,
        Nested("The promise; its tags must route it.", body=CreatePromiseBody),
    ] = None
    task: Annotated[ClaimBody | None, Nested("The claim.", body=ClaimBody)] = None


class CompletePromiseBody(Struct, rename="camel", gc=False):
    """The completion of a promise."""

    state: Annotated[
        str | None,
        Choice(
            "The state to complete the promise with.",
            "RESOLVED",
            required=True,
            choices=tuple(state.value for state in COMPLETION_STATES),
        ),
    ] = None
    value: Annotated[ValueBody | None, Nested("The result.", body=ValueBody)] = None


_IdempotencyKey = Annotated[
    str | None,
    Text(
        "As the header `Idempotency-Key`.",
        "order-42",
        limit_bytes=limits.IDEMPOTENCY_KEY_LIMIT_BYTES,
    ),
]
_Strict = Annotated[bool | None, Flag("As the header `Strict`.", example=False)]


class BatchCreateBody(CreatePromiseBody, rename="camel", gc=False):
    """The creation of a promise, in a batch."""

    idempotency_key: _IdempotencyKey = None
    strict: _Strict = None


class BatchCompleteBody(CompletePromiseBody, rename="camel", gc=False):
    """The completion of a promise, in a batch."""

    id: _PromiseId = None
    idempotency_key: _IdempotencyKey = None
    strict: _Strict = None


class BatchReadBody(Struct, gc=False):
    """The reading of a promise, in a batch."""

    id: _PromiseId = None


class BatchItemBody(Struct, gc=False):
    """One call of a batch: just one of these."""

    create: Annotated[
        BatchCreateBody | None, OptionalNested("Create a promise.", body=BatchCreateBody)
    ] = None
    complete: Annotated[
        BatchCompleteBody | None, OptionalNested("Complete a promise.", body=BatchCompleteBody)
    ] = None
    read: Annotated[BatchReadBody | None, OptionalNested("Read a promise.", body=BatchReadBody)] = (
        None
    )


class CallbackOfPromiseBody(Struct, rename="camel"):
    """The promise to resume when the one in the path completes."""

    root_promise_id: Annotated[
        str | None, Text("The promise whose work continues then.", "order/41", required=True)
    ] = None
    timeout: _DeliveryTime = None
    recv: _Receiver = Raw()


class CallbackBody(CallbackOfPromiseBody, rename="camel"):
    """The promise to resume when another one completes."""

    id: Annotated[
        str | None,
        Text("Required, but not used. May be spelled `Id`.", "x", required=True, limit_bytes=0),
    ] = None
    capital_id: str | None = struct_field(name="Id", default=None)
    promise_id: _AwaitedId = None

    def __post_init__(self) -> None:
        """Take the other spelling of `id` for it."""
        self.id = self.id or self.capital_id


class SubscriptionOfPromiseBody(Struct, rename="camel"):
    """The receiver to notify when the promise in the path completes."""

    id: Annotated[
        str | None, Text("The subscription's name, one per promise.", "me", required=True)
    ] = None
    timeout: _DeliveryTime = None
    recv: _Receiver = Raw()


class SubscriptionBody(SubscriptionOfPromiseBody, rename="camel"):
    """The receiver to notify when a promise completes."""

    promise_id: _AwaitedId = None


class CreateScheduleBody(Struct, rename="camel"):
    """A recipe that creates promises at certain times."""

    id: Annotated[str | None, Text("The schedule's id.", "nightly", required=True)] = None
    description: Annotated[
        str | None,
        Text(
            "For people.",
            "Close the books",
            limit_bytes=limits.DESCRIPTION_LIMIT_BYTES,
        ),
    ] = None
    desc: Annotated[
        str | None,
        Text(
            "Older name of `description`, which wins.", limit_bytes=limits.DESCRIPTION_LIMIT_BYTES
        ),
    ] = None
    cron: Annotated[
        str | None,
        Text(
            "When: five fields, six with leading seconds, `@daily` and the like, or `@every "
            "1h30m`; "
            "`TZ=Europe/Berlin ` may come first.",
            "0 3 * * *",
            required=True,
            limit_bytes=limits.CRON_LIMIT_BYTES,
            form="cron",
        ),
    ] = None
    tags: Annotated[_Strings, StringMap("For search.", {"team": "orders"})] = None
    promise_id: Annotated[
        str | None,
        Text(
            "The id of the promises made. `{{.id}}` stands for the schedule's id, "
            "`{{.timestamp}}` for the time it fired, in milliseconds.",
            "nightly.{{.timestamp}}",
            required=True,
            form="promise-id-template",
        ),
    ] = None
    promise_timeout: Annotated[
        int | None,
        Integer("Milliseconds from firing to the promise's timeout.", 3_600_000),
    ] = None
    promise_param: Annotated[
        ValueBody | None, Nested("The param of the promises made.", body=ValueBody)
    ] = None
    promise_tags: Annotated[
        _Strings, StringMap("The tags of the promises made.", {"team": "x"})
    ] = None


class AcquireLockBody(Struct, rename="camel"):
    """The lock to acquire: its resource, its holder and its duration."""

    resource_id: Annotated[str | None, Text("The resource to lock.", "printer", required=True)] = (
        None
    )
    execution_id: Annotated[
        str | None,
        Text("The holder; only it can renew the lock.", "run-7", required=True),
    ] = None
    process_id: Annotated[
        str | None, Text("The process that renews it.", "worker-1", required=True)
    ] = None
    ttl: Annotated[
        int | None,
        Integer("For how many milliseconds, unless renewed; at least 500.", 60_000, minimum=0),
    ] = None
    expiry_in_milliseconds: Annotated[
        int | None,
        Integer(
            "The name that older SDKs use for `ttl`. If both are given, `ttl` counts.", minimum=0
        ),
    ] = None


class ReleaseLockBody(Struct, rename="camel"):
    """The lock to release."""

    resource_id: Annotated[str | None, Text("The locked resource.", "printer", required=True)] = (
        None
    )
    execution_id: Annotated[str | None, Text("The holder of the lock.", "run-7", required=True)] = (
        None
    )


class HeartbeatBody(Struct, rename="camel"):
    """The process whose leases are renewed."""

    process_id: Annotated[
        str | None, Text("The process whose leases to renew.", "worker-1", required=True)
    ] = None


class TaskBody(Struct, rename="camel"):
    """A task and its counter."""

    id: Annotated[
        str | None, Text("The task's id.", "__invoke:order/42", required=True, limit_bytes=0)
    ] = None
    counter: Annotated[
        int | None, Integer("The counter that came with the message.", 1, required=True)
    ] = None


class ClaimTaskBody(TaskBody, rename="camel"):
    """The task to claim, the process that claims it and the lease's duration."""

    process_id: _ProcessId = None
    ttl: _LeaseTime = None


class RetentionBody(Struct, rename="camel", forbid_unknown_fields=True):
    """Options of a retention run: delete or only count, and by which rules."""

    dry_run: Annotated[
        bool | None,
        Flag(
            "True: only count what would be deleted; change nothing. False: delete.",
            True,
            required=True,
        ),
    ] = None
    retain: Annotated[
        str | None,
        Text(
            "Rules to try instead of the server's, as in the setting `retain`. They never delete "
            "anything: the run is dry, whatever `dryRun` says.",
            "resolved:7d,all:90d:team=billing",
            limit_bytes=limits.RETENTION_RULES_LIMIT_BYTES,
            form="retention-rules",
        ),
    ] = None


class ImportedPromiseBody(Struct, rename="camel", gc=False):
    """A promise of another server, in the form in which the API shows promises."""

    id: _PromiseId = None
    state: Annotated[
        str | None,
        Choice(
            "Its state.",
            "RESOLVED",
            required=True,
            choices=tuple(state.value for state in (PENDING, *FINAL_STATES)),
        ),
    ] = None
    param: Annotated[ValueBody | None, Nested("Its param.", body=ValueBody)] = None
    value: Annotated[
        ValueBody | None, Nested("Its result; not used while pending.", body=ValueBody)
    ] = None
    timeout: Annotated[
        int | None, Integer("When it times out, or would have, in ms since 1970.", _FAR_MS)
    ] = None
    idempotency_key_for_create: Annotated[
        str | None,
        Text("The key it was created with.", limit_bytes=limits.IDEMPOTENCY_KEY_LIMIT_BYTES),
    ] = None
    idempotency_key_for_complete: Annotated[
        str | None,
        Text(
            "The key it was completed with; not used while pending.",
            limit_bytes=limits.IDEMPOTENCY_KEY_LIMIT_BYTES,
        ),
    ] = None
    tags: Annotated[_Strings, StringMap("Its tags.", {"team": "orders"})] = None
    created_on: Annotated[
        int | None, Integer("When it was created, in ms since 1970.", 1_767_225_600_000, minimum=0)
    ] = None
    completed_on: Annotated[
        int | None,
        Integer(
            "When it was completed; absent means at its creation. Not used while pending.",
            1_767_225_700_000,
        ),
    ] = None


class ImportBody(Struct, rename="camel"):
    """Promises from another server."""

    promises: Annotated[
        list[ImportedPromiseBody] | None,
        BodyList(
            "In the order in which they were created.",
            required=True,
            body=ImportedPromiseBody,
            limit_count=limits.IMPORT_LIMIT_COUNT,
        ),
    ] = None
