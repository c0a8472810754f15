"""Reply codes: what every answer of the state machine and of the API is called.

A code is five digits; its HTTP status is `code // 100`. The numbers up to 50399 that `rest.md` 0.5
lists are the reference server's; `OURS` holds those that Troth adds for cases where the reference
has no code. Every code has a paragraph on the page `/docs/errors`, made from `EXPLANATIONS`.
"""

from enum import IntEnum


class Code(IntEnum):
    """A five-digit reply code. `status` is the HTTP status: its first three digits."""

    status: int

    def __init__(self, code: int) -> None:
        """Derive the status."""
        self.status = code // 100

    OK = 20000
    CREATED = 20100
    NO_CONTENT = 20400

    AWAITED_SETTLED = 30000

    INVALID = 40000
    SAME_ROOT = 40001
    UNAUTHORIZED = 40100
    SESSION_ENDED = 40101
    PROMISE_RESOLVED = 40300
    PROMISE_REJECTED = 40301
    PROMISE_CANCELED = 40302
    PROMISE_TIMEDOUT = 40303
    LOCK_HELD = 40304
    TASK_CLAIMED = 40305
    TASK_COMPLETED = 40306
    TASK_COUNTER = 40307
    TASK_STATE = 40308
    ORIGIN_FORBIDDEN = 40310
    FORBIDDEN_SCOPE = 40312
    FORBIDDEN_PREFIX = 40313
    RESERVED_ID = 40314
    SESSION_FORBIDDEN = 40315
    CSRF_MISSING = 40316
    PROMISE_NOT_FOUND = 40400
    SCHEDULE_NOT_FOUND = 40401
    LOCK_NOT_FOUND = 40402
    TASK_NOT_FOUND = 40403
    RECEIVER_NOT_FOUND = 40404
    PATH_NOT_FOUND = 40410
    FUNCTION_NOT_FOUND = 40411
    BUILD_NOT_FOUND = 40412
    LABEL_NOT_FOUND = 40413
    NODE_NOT_FOUND = 40414
    ACCOUNT_NOT_FOUND = 40415
    TOKEN_NOT_FOUND = 40416
    EXECUTION_NOT_FOUND = 40417
    RESULT_NOT_READY = 40418
    ENTRY_NOT_FOUND = 40419
    BULK_NOT_FOUND = 40420
    METHOD_NOT_ALLOWED = 40500
    REQUEST_TIMEOUT = 40800
    PROMISE_EXISTS = 40900
    SCHEDULE_EXISTS = 40901
    ENTRY_EXISTS = 40910
    ENTRY_CHANGED = 40911
    NO_BUILD = 40912
    FUNCTION_PAUSED = 40913
    EXECUTION_NOT_HELD = 40914
    EXECUTION_FINISHED = 40915
    BULK_ENDED = 40916
    WORKFLOW_STATE = 40920
    WORKFLOW_VERSION = 40921
    PROMISE_PENDING = 40930
    PROMISE_IN_USE = 40931
    ORIGIN_PENDING = 40932
    EXECUTION_CANCELED = 41001
    TASK_FENCED = 41200
    BODY_TOO_LARGE = 41300
    ENCODING_UNSUPPORTED = 41500
    MISDIRECTED = 42100
    AWAITED_NOT_FOUND = 42200
    AWAITER_UNUSABLE = 42201
    NO_WORKFLOW_TASK = 42202
    TOO_MANY_WAITING = 42203
    TOO_MANY_CALLBACKS = 42900
    TOO_MANY_ATTEMPTS = 42901
    TOO_MANY_EXECUTIONS = 42902
    TOO_MANY_BULK_JOBS = 42903
    INTERNAL = 50000
    FUNCTION_FAILED = 50001
    NODES_LOST = 50201
    FUNCTION_UNUSABLE = 50202
    STORE_FAILED = 50304
    SHUTTING_DOWN = 50300
    OVERLOADED = 50301
    STARTING = 50305
    OUT_OF_REACH = 50306
    LINK_BROKEN = 50307
    EXECUTION_TIMEDOUT = 50401


OURS = frozenset(
    {
        Code.PATH_NOT_FOUND,
        Code.METHOD_NOT_ALLOWED,
        Code.REQUEST_TIMEOUT,
        Code.BODY_TOO_LARGE,
        Code.TOO_MANY_CALLBACKS,
        Code.ORIGIN_FORBIDDEN,
        Code.MISDIRECTED,
        Code.ENCODING_UNSUPPORTED,
        Code.FORBIDDEN_SCOPE,
        Code.FORBIDDEN_PREFIX,
        Code.SESSION_ENDED,
        Code.SESSION_FORBIDDEN,
        Code.CSRF_MISSING,
        Code.RESERVED_ID,
        Code.ACCOUNT_NOT_FOUND,
        Code.TOKEN_NOT_FOUND,
        Code.TOO_MANY_ATTEMPTS,
        Code.EXECUTION_NOT_FOUND,
        Code.ENTRY_NOT_FOUND,
        Code.ENTRY_EXISTS,
        Code.ENTRY_CHANGED,
        Code.EXECUTION_NOT_HELD,
        Code.EXECUTION_FINISHED,
        Code.NODE_NOT_FOUND,
        Code.RESULT_NOT_READY,
        Code.NO_BUILD,
        Code.FUNCTION_PAUSED,
        Code.EXECUTION_CANCELED,
        Code.TOO_MANY_EXECUTIONS,
        Code.FUNCTION_FAILED,
        Code.NODES_LOST,
        Code.FUNCTION_UNUSABLE,
        Code.EXECUTION_TIMEDOUT,
        Code.STORE_FAILED,
        Code.STARTING,
        Code.OUT_OF_REACH,
        Code.LINK_BROKEN,
        Code.FUNCTION_NOT_FOUND,
        Code.BUILD_NOT_FOUND,
        Code.LABEL_NOT_FOUND,
        Code.WORKFLOW_STATE,
        Code.WORKFLOW_VERSION,
        Code.AWAITED_NOT_FOUND,
        Code.AWAITER_UNUSABLE,
        Code.NO_WORKFLOW_TASK,
        Code.TOO_MANY_WAITING,
        Code.BULK_NOT_FOUND,
        Code.BULK_ENDED,
        Code.TOO_MANY_BULK_JOBS,
        Code.PROMISE_PENDING,
        Code.PROMISE_IN_USE,
        Code.ORIGIN_PENDING,
    }
)

MESSAGES: dict[Code, str] = {
    Code.INVALID: "The request is invalid",
    Code.SAME_ROOT: "The promise and root promise must be different",
    Code.UNAUTHORIZED: "Authentication is required",
    Code.PROMISE_RESOLVED: "The promise has already been resolved",
    Code.PROMISE_REJECTED: "The promise has already been rejected",
    Code.PROMISE_CANCELED: "The promise has already been canceled",
    Code.PROMISE_TIMEDOUT: "The promise has already timedout",
    Code.LOCK_HELD: "The lock is already acquired",
    Code.ORIGIN_FORBIDDEN: "The origin is not allowed",
    Code.FORBIDDEN_SCOPE: "The credentials do not allow this",
    Code.FORBIDDEN_PREFIX: "The token is limited to other ids",
    Code.SESSION_ENDED: "The session has ended",
    Code.SESSION_FORBIDDEN: "A session does not count for this",
    Code.CSRF_MISSING: "The request does not come from the session's own page",
    Code.RESERVED_ID: "The id is reserved for the server",
    Code.TASK_CLAIMED: "The task is already claimed",
    Code.TASK_COMPLETED: "The task is already completed",
    Code.TASK_COUNTER: "The task counter is invalid",
    Code.TASK_STATE: "The task state is invalid",
    Code.PROMISE_NOT_FOUND: "The specified promise was not found",
    Code.SCHEDULE_NOT_FOUND: "The specified schedule was not found",
    Code.LOCK_NOT_FOUND: "The specified lock was not found",
    Code.TASK_NOT_FOUND: "The specified task was not found",
    Code.RECEIVER_NOT_FOUND: "The specified recv couldn't be found",
    Code.PATH_NOT_FOUND: "There is nothing at this path",
    Code.ACCOUNT_NOT_FOUND: "The specified account was not found",
    Code.TOKEN_NOT_FOUND: "The specified token was not found",
    Code.EXECUTION_NOT_FOUND: "The specified function task was not found",
    Code.ENTRY_NOT_FOUND: "The specified entry was not found",
    Code.METHOD_NOT_ALLOWED: "The path does not support this method",
    Code.REQUEST_TIMEOUT: "The request did not arrive in time",
    Code.PROMISE_EXISTS: "The specified promise already exists",
    Code.SCHEDULE_EXISTS: "The specified schedule already exists",
    Code.ENTRY_EXISTS: "The specified entry already exists",
    Code.ENTRY_CHANGED: "The specified entry was changed by another request",
    Code.EXECUTION_NOT_HELD: "The node does not hold the function task",
    Code.EXECUTION_FINISHED: "The function task is already finished",
    Code.TASK_FENCED: "The task precondition failed",
    Code.BODY_TOO_LARGE: "The request body is too large",
    Code.ENCODING_UNSUPPORTED: "The encoding of the body is not supported",
    Code.MISDIRECTED: "The request is for another host",
    Code.TOO_MANY_ATTEMPTS: "Too many failed attempts to authenticate",
    Code.TOO_MANY_CALLBACKS: "Too many callbacks are waiting for the promise",
    Code.NODE_NOT_FOUND: "The specified node was not found",
    Code.RESULT_NOT_READY: "The function task has no result yet",
    Code.NO_BUILD: "The function has no runner",
    Code.FUNCTION_PAUSED: "The function is paused",
    Code.EXECUTION_CANCELED: "The function task was canceled",
    Code.TOO_MANY_EXECUTIONS: "Too many function tasks are waiting",
    Code.FUNCTION_FAILED: "The function has failed",
    Code.NODES_LOST: "The nodes that ran the function were lost",
    Code.FUNCTION_UNUSABLE: "The function returned an unusable response",
    Code.EXECUTION_TIMEDOUT: "The function took too long",
    Code.INTERNAL: "There was an internal server error",
    Code.STORE_FAILED: "The storage has failed and the server is stopping",
    Code.SHUTTING_DOWN: "The system is shutting down",
    Code.OVERLOADED: "The api submission queue is full",
    Code.STARTING: "The server is starting",
    Code.OUT_OF_REACH: "The part of the server that has this is not there",
    Code.LINK_BROKEN: "The part of the server that has this has gone away",
    Code.FUNCTION_NOT_FOUND: "The specified function was not found",
    Code.BUILD_NOT_FOUND: "The specified build was not found",
    Code.LABEL_NOT_FOUND: "The specified tag was not found",
    Code.WORKFLOW_STATE: "The task's state does not allow this",
    Code.WORKFLOW_VERSION: "The task is at another version",
    Code.AWAITED_NOT_FOUND: "An awaited promise was not found",
    Code.AWAITER_UNUSABLE: "The awaiter does not exist or has no target",
    Code.NO_WORKFLOW_TASK: "The promise exists and has no task",
    Code.TOO_MANY_WAITING: "Too many tasks or listeners are waiting for the promise",
    Code.BULK_NOT_FOUND: "The specified bulk job was not found",
    Code.BULK_ENDED: "The bulk job has already ended",
    Code.TOO_MANY_BULK_JOBS: "Too many bulk jobs are running",
    Code.PROMISE_PENDING: "The promise is pending",
    Code.PROMISE_IN_USE: "Something unfinished is about the promise",
    Code.ORIGIN_PENDING: "The promise that this one was made for is pending",
}

EXPLANATIONS: dict[Code, str] = {
    Code.INVALID: (
        "A header, a query parameter, the path or the body is malformed. Each entry of `details` "
        "names one field, what it must be and what was sent. Nothing was changed."
    ),
    Code.SAME_ROOT: (
        "A callback resumes one promise when another completes, so `promiseId` and "
        "`rootPromiseId` must differ. Use a subscription to be told about a promise itself."
    ),
    Code.UNAUTHORIZED: (
        "The server requires credentials. The request had none, or wrong ones, or a token that was "
        "revoked, has expired or belongs to a disabled account. Send `Bearer` and a token, or "
        "`Basic` credentials, in the `Authorization` header."
    ),
    Code.SESSION_ENDED: (
        "The browser's session has ended: after 12 hours without use, after 7 days, because its "
        "token stopped working, because it was signed out, or because the server was restarted. "
        "Sign in again."
    ),
    Code.SESSION_FORBIDDEN: (
        "A browser's session does not count for links that change something, for workers and "
        "nodes, and for making other sessions. Send `Authorization`. Sessions are opened by this "
        "server's own pages, and by requests with `X-Troth-UI: 1`."
    ),
    Code.CSRF_MISSING: (
        "With a session, a request that changes something needs the header `X-Troth-CSRF`, with "
        "the text that `GET /session` shows. Nothing was changed."
    ),
    Code.PROMISE_RESOLVED: (
        "The promise is already resolved. A promise completes once; read it to see its value. "
        "Repeat a request with the same `Idempotency-Key` to get 200 instead."
    ),
    Code.PROMISE_REJECTED: (
        "The promise is already rejected. A promise completes once; read it to see its value."
    ),
    Code.PROMISE_CANCELED: "The promise is already canceled. A promise completes once.",
    Code.PROMISE_TIMEDOUT: (
        "The promise timed out before it was completed. Without the header `Strict: true`, the "
        "same request returns 200 with the timed-out promise."
    ),
    Code.LOCK_HELD: (
        "Another execution holds the lock. Try again after its lease ends or it is released."
    ),
    Code.ORIGIN_FORBIDDEN: (
        "The browser's `Origin` is not allowed (setting `cors_allow_origin`), or a page of another "
        "site opened a link that changes something."
    ),
    Code.FORBIDDEN_SCOPE: (
        "The credentials are valid but lack a scope. `/docs` lists the scope of each endpoint; "
        "`troth token create --scope` grants scopes to a new token. Users (setting `basic_auth`) "
        "have all scopes but no account, so they cannot use `/v1`."
    ),
    Code.FORBIDDEN_PREFIX: (
        "The token is limited to ids with a certain prefix (`troth token create --id-prefix`), and "
        "the request names another id, which may or may not exist."
    ),
    Code.RESERVED_ID: (
        "Ids that begin with `troth:` are reserved: the server keeps function tasks and builds "
        "under them. Choose another id. Nothing was changed."
    ),
    Code.TASK_CLAIMED: "A worker has claimed the task and its lease has not ended.",
    Code.TASK_COMPLETED: "The task is completed or timed out; no work is left.",
    Code.TASK_COUNTER: (
        "The task was sent again since, with a higher counter. Your message is stale: drop it and "
        "stop the work it started."
    ),
    Code.TASK_STATE: (
        "The task is in another state: only a claimed task can be completed or released, and only "
        "a stalled one can be sent again."
    ),
    Code.PROMISE_NOT_FOUND: "No promise has this id.",
    Code.SCHEDULE_NOT_FOUND: "No schedule has this id.",
    Code.LOCK_NOT_FOUND: "No lock on this resource is held by this execution.",
    Code.TASK_NOT_FOUND: "No task has this id.",
    Code.RECEIVER_NOT_FOUND: (
        "The promise's tags name no receiver, so it cannot have a task. Set the tag "
        "`resonate:invoke`, for example to `poll://any@default`. Nothing was created."
    ),
    Code.PATH_NOT_FOUND: "The API has no such path. `/docs` lists all paths.",
    Code.ACCOUNT_NOT_FOUND: "No account has this id or name.",
    Code.TOKEN_NOT_FOUND: "No token has this id.",
    Code.EXECUTION_NOT_FOUND: "No function task of your account has this id.",
    Code.ENTRY_NOT_FOUND: "It does not exist, or was just deleted.",
    Code.METHOD_NOT_ALLOWED: "The path supports other methods: see the `Allow` header.",
    Code.REQUEST_TIMEOUT: "The client took too long to send its request.",
    Code.PROMISE_EXISTS: (
        "A promise with this id exists, and the request's `Idempotency-Key` is not the one it was "
        "created with (or the request has `Strict: true` and the promise is complete)."
    ),
    Code.SCHEDULE_EXISTS: (
        "A schedule with this id exists; it was created with another `Idempotency-Key`, or none."
    ),
    Code.ENTRY_EXISTS: "An entry with this id already exists. Nothing was changed.",
    Code.ENTRY_CHANGED: (
        "Another request changed this at the same time. Read it again and repeat the change."
    ),
    Code.EXECUTION_NOT_HELD: (
        "The function task was reassigned because the node was silent for too long. Stop working "
        "on it and drop the result."
    ),
    Code.EXECUTION_FINISHED: (
        "The function task has a result, was canceled or ran out of time. Nothing was changed."
    ),
    Code.TASK_FENCED: (
        "The headers `Task-Id` and `Task-Counter` name a task that the sender no longer holds. "
        "Another worker has taken over the work; nothing was changed."
    ),
    Code.BODY_TOO_LARGE: (
        "The body is larger than the server allows (setting `body_limit_bytes`). Store large "
        "values elsewhere and keep a reference in the promise."
    ),
    Code.ENCODING_UNSUPPORTED: (
        "The header `Content-Encoding` says that the body is compressed or otherwise encoded. Send "
        "it as it is, without that header or with `identity`. Nothing was changed."
    ),
    Code.MISDIRECTED: (
        "Without credentials, the server answers only to names that are surely its own: "
        "IP addresses, names without a dot, names that end in `.localhost`, `.local`, `.internal`, "
        "`.lan`, `.home.arpa`, `.svc` or `.cluster.local`, and those of the settings `listen`, "
        "`poll_listen`, `url` and `hosts`. Any other name could be one that a web page lets "
        "resolve to this machine, to use the server through a visitor's browser. Add the name to "
        "`hosts`, or make an account (`troth account add`): then any name will do."
    ),
    Code.TOO_MANY_ATTEMPTS: (
        "Too many requests from this network address had wrong credentials, so it has to wait, "
        "even with a correct password (setting `failed_attempts_limit_count`). Valid tokens are "
        "let in. Send the request again after `Retry-After`."
    ),
    Code.TOO_MANY_CALLBACKS: (
        "The promise has the maximum number of callbacks and subscriptions. All are served when it "
        "completes, so their number is limited. Nothing was registered."
    ),
    Code.NODE_NOT_FOUND: "No node of your account has this id, or it was deleted.",
    Code.RESULT_NOT_READY: (
        "The function task is not finished. Ask again after `Retry-After`, or with `?wait=SECONDS`."
    ),
    Code.NO_BUILD: (
        "NO_RUNNER: no build of the function has succeeded yet. Upload its code with "
        "`POST /v1/build/{functionId}`."
    ),
    Code.FUNCTION_PAUSED: (
        "A paused function cannot run. `POST /v1/function/{functionId}/togglePause` resumes it."
    ),
    Code.EXECUTION_CANCELED: (
        "The function task was canceled before it finished, so it has no result."
    ),
    Code.TOO_MANY_EXECUTIONS: (
        "The account has the maximum number of waiting function tasks (setting "
        "`function_queue_limit_count`). Nothing was created; send the request again after "
        "`Retry-After`."
    ),
    Code.FUNCTION_FAILED: (
        "The function did not return: it raised an error, ended early or exceeded a limit. The "
        "detail says what is known; the node's log has more."
    ),
    Code.NODES_LOST: (
        "More than three nodes in a row were lost while they ran this function. The function "
        "itself may be the cause."
    ),
    Code.FUNCTION_UNUSABLE: (
        "The function's URL could not be called, or its response cannot be returned: it is too "
        "large, not HTTP, or has a status that a result may not have."
    ),
    Code.EXECUTION_TIMEDOUT: (
        "The function took longer than its `timeout` allows, or no node could run it in time "
        "(setting `task_wait_limit_ms`)."
    ),
    Code.INTERNAL: "This is a bug in the server. Please report it, with the server's log.",
    Code.STORE_FAILED: (
        "The disk reported an error, so the server acknowledges nothing more and stops. The "
        "request may or may not have taken effect: after the restart read it back, or send it "
        "again with the same `Idempotency-Key`."
    ),
    Code.OUT_OF_REACH: (
        "The server runs as several processes, and the one that has this promise is being started "
        "again. Nothing was done: send the request again after `Retry-After`."
    ),
    Code.LINK_BROKEN: (
        "The server runs as several processes, and the one that has this promise went away before "
        "it had answered. The request may or may not have taken effect: read it back, or send it "
        "again with the same `Idempotency-Key`, after `Retry-After`."
    ),
    Code.SHUTTING_DOWN: "The server is stopping. Send the request again after `Retry-After`.",
    Code.OVERLOADED: (
        "The server has too many waiting requests. Nothing was changed; send the request again "
        "after `Retry-After`."
    ),
    Code.STARTING: "The server is still reading its log. Send the request again shortly.",
    Code.FUNCTION_NOT_FOUND: "The account of the token has no function with this id.",
    Code.BUILD_NOT_FOUND: (
        "The account of the token has no build with this id. Only the newest builds of a function "
        "are kept, and none after the function is deleted."
    ),
    Code.LABEL_NOT_FOUND: "The account of the token has no tag with this id.",
    Code.WORKFLOW_STATE: (
        "Envelope protocol: the task is in a state that does not allow this, for example it is "
        "suspended, or its lease has ended, or its promise was settled by another request. Nothing "
        "was changed. A worker that gets this no longer holds the task and stops working on it."
    ),
    Code.WORKFLOW_VERSION: (
        "Envelope protocol: the task was claimed at another version than the request names. Drop "
        "the message or stop the work it began. Nothing was changed."
    ),
    Code.AWAITED_NOT_FOUND: (
        "Envelope protocol: a task can only be suspended on promises that exist. Create the "
        "promise first. Nothing was changed."
    ),
    Code.AWAITER_UNUSABLE: (
        "Envelope protocol: only a promise with the tag `resonate:target` can be woken when "
        "another settles. Nothing was changed."
    ),
    Code.NO_WORKFLOW_TASK: (
        "Envelope protocol: the promise exists and was created without the tag `resonate:target`, "
        "so it has no task that could be claimed. Nothing was changed."
    ),
    Code.TOO_MANY_WAITING: (
        "Envelope protocol: the promise has the maximum number of waiting tasks and listeners, or "
        "a task is to be suspended for more than 5,000 promises. Nothing was changed."
    ),
    Code.BULK_NOT_FOUND: (
        "No bulk job has this id, or the token is limited to ids with another prefix. Jobs are "
        "forgotten a week after their end, and sooner when there are more than a hundred."
    ),
    Code.BULK_ENDED: "The bulk job has finished or was stopped. Nothing was changed.",
    Code.TOO_MANY_BULK_JOBS: (
        "Four bulk jobs are running, which is the maximum. Nothing was started: wait until one has "
        "ended, or stop one with `DELETE /bulk/{id}`."
    ),
    Code.PROMISE_PENDING: (
        "Only completed promises can be deleted. Complete the promise first, for example by "
        "canceling it."
    ),
    Code.PROMISE_IN_USE: (
        "The promise has completed, but a worker is still to be told of it, or has a task that is "
        "about it. Such a promise cannot be deleted yet. `GET /tasks` shows what is left; try "
        "again when it is done, or has timed out."
    ),
    Code.ORIGIN_PENDING: (
        "The promise has the tag `resonate:origin` or `resonate:root`: a workflow has made it. "
        "While that runs, it reads what the promise came to when it goes on after a failure, and "
        "would do the work again if it were gone. Delete the promise when its origin, and the "
        "origin of that, have completed."
    ),
}

assert set(MESSAGES) == set(EXPLANATIONS)
assert set(MESSAGES) == {code for code in Code if code.status >= 400}
