"""Every limit of the server, named with its unit, in one place.

A limit that an operator may change is only the default of the setting of the same name in
`http/settings/settings.py`. The relations at the end are asserted when the module is imported.
"""

from typing import Final

# Numbers in the API are signed 64-bit integers; sums saturate at the ends (decisions.md 1).
INTEGER_MAX: Final = 2**63 - 1
INTEGER_MIN: Final = -(2**63)

# Requests.
BODY_LIMIT_BYTES: Final = 4 * 1024 * 1024
LARGE_BODY_BYTES: Final = 64 * 1024  # what is in larger JSON bodies is counted before it is read
LONG_BODY_BYTES: Final = 1024 * 1024  # read and written in two passes of the loop
BODY_STRINGS_LIMIT_COUNT: Final = 4096  # in a large body about one thing
BODY_VALUES_LIMIT_COUNT: Final = 100_000  # in a large body about many things
CLOSED_BODY_LIMIT_BYTES: Final = 128 * 1024  # of a body that grants rights or deletes
ID_LIMIT_BYTES: Final = 1024
TAGS_LIMIT_COUNT: Final = 64
TAG_LIMIT_BYTES: Final = 4096  # one key with its value
VALUE_HEADERS_LIMIT_COUNT: Final = 64  # headers of a promise's param or value
VALUE_HEADER_LIMIT_BYTES: Final = 8192  # one key with its value
RECEIVER_LIMIT_BYTES: Final = 8192
RECEIVER_DEPTH_LIMIT_COUNT: Final = 32  # nesting of a receiver's JSON
CRON_LIMIT_BYTES: Final = 1024
DESCRIPTION_LIMIT_BYTES: Final = 4096
IDEMPOTENCY_KEY_LIMIT_BYTES: Final = 1024
TRACE_LIMIT_BYTES: Final = 1024  # each of traceparent and tracestate
REQUEST_HEADERS_LIMIT_BYTES: Final = 32 * 1024  # request line and header lines together

# Credentials.
FAILED_ATTEMPTS_LIMIT_COUNT: Final = 10  # wrong credentials from an address in the window
FAILED_ATTEMPTS_WINDOW_MS: Final = 60_000
FAILED_ATTEMPTS_ADDRESSES_COUNT: Final = 10_000  # addresses that are remembered
ACCOUNTS_LIMIT_COUNT: Final = 10_000
ACCOUNT_NAME_LIMIT_BYTES: Final = 128  # and of tokens
TOKENS_LIMIT_COUNT: Final = 1_000  # of one account; those that no longer work make room
TOKEN_GRACE_LIMIT_MS: Final = 30 * 86_400_000  # how long a secret works after a rotation
AUDIT_FILE_LIMIT_BYTES: Final = 8 * 1024 * 1024
AUDIT_FILES_COUNT: Final = 10
AUDIT_PAGE_LIMIT_COUNT: Final = 1_000  # entries on one page

IMPORT_LIMIT_COUNT: Final = 1000  # promises of one request of an import


# Search.
PAGE_LIMIT_COUNT: Final = 100
PAGE_LIMIT_BYTES: Final = 4 * 1024 * 1024  # a page ends before the row that would exceed it
LARGE_ANSWER_BYTES: Final = PAGE_LIMIT_BYTES * 3 // 2  # what a page may be as JSON
COLD_READ_LIMIT_BYTES: Final = 1024 * 1024  # read from disk before others get their turn
SEARCH_SCAN_COUNT: Final = 400  # entries one shard looks at before others get their turn

# Batches of calls.
BATCH_ITEMS_LIMIT_COUNT: Final = 1000  # calls of one batch
BATCH_SLICE_COUNT: Final = 100  # calls carried out before others get their turn
BATCH_SLICE_BYTES: Final = 256 * 1024  # and no more of them, once they are this long
BATCH_COMPLETIONS_COUNT: Final = 20  # completions among these
BATCH_ANSWER_LIMIT_BYTES: Final = PAGE_LIMIT_BYTES  # beyond it the rest is not carried out

# Shards.
SHARDS_DEFAULT_COUNT: Final = 16
SHARDS_LIMIT_COUNT: Final = 1024
CLUSTER_GROUPS_LIMIT_COUNT: Final = 64  # each is a process of each node, with two connections
GROUPS_LIMIT_COUNT: Final = 1024  # 10 bits of a serial name the group
SERIAL_TIME_BEGINS_MS: Final = 1_735_689_600_000  # 2025-01-01; what serials count from
SERIAL_TIME_ENDS_MS: Final = SERIAL_TIME_BEGINS_MS + 2**41  # in 2094: later they have no room
MAILBOX_LIMIT_COUNT: Final = 4096  # waiting commands a shard; beyond it: 503
BATCH_LIMIT_COUNT: Final = 512  # commands a shard takes together
LOG_PENDING_LIMIT_BYTES: Final = (
    64 * 1024 * 1024
)  # stepped but not yet on disk; beyond it shards wait
BODY_SETTING_LIMIT_BYTES: Final = LOG_PENDING_LIMIT_BYTES // 4
"""What `body_limit_bytes` and `build_limit_bytes` may be set to: there must be room for several."""
TIMERS_BATCH_LIMIT_COUNT: Final = 1024  # due deadlines a shard handles together
WHEEL_SLICE_COUNT: Final = 256  # deadlines a wheel takes or moves between two looks at the time
SLICE_COUNT: Final = 8  # commands or deadlines between two looks at the time
HEARTBEAT_SLICE_COUNT: Final = 10  # leases that one step of a heartbeat renews
RENEWALS_SLICE_COUNT: Final = 4_000  # tasks of one heartbeat that a pass asks shards for
REARM_SLICE_COUNT: Final = 10  # timers that one step looks at again after a step back of the clock
COMPLETION_SLICE_COUNT: Final = 20  # tasks and waiters that one step of a completion is about

# Tasks.
TASK_CLAIM_TIMEOUT_MS: Final = 10_000  # a message sent but not claimed goes out again
TASK_RETRY_FIRST_MS: Final = 1_000  # back-off after a failed send; doubles
TASK_RETRY_LIMIT_MS: Final = 60_000
GET_CLAIM_TTL_MS: Final = 60_000  # lease of a task claimed by GET

# Workflow tasks (envelope protocol).
WORKFLOW_RETRY_MS: Final = 30_000  # a message sent but not claimed goes out again
WORKFLOW_IDLE_COUNT: Final = 2  # releases without progress in a row before a task is held back
WORKFLOW_IDLE_FIRST_MS: Final = 500  # how long; doubles with each further one
WORKFLOW_IDLE_LIMIT_MS: Final = 30_000
AWAITED_LIMIT_COUNT: Final = 5_000  # promises that a task is suspended for, in one request
HEARTBEAT_VALUES_LIMIT_COUNT: Final = 400_000  # in the body of a heartbeat that names tasks
UNBLOCK_LIMIT_MS: Final = 3_600_000  # a listener that was not reached by then is given up
WAITING_LIMIT_COUNT: Final = 10_000  # tasks, and listeners, that wait for one promise
LEASE_LEAST_MS: Final = 500  # a lease lasts at least this long, whatever ttl was asked for

DISPATCH_LIMIT_COUNT: Final = 100  # messages to workers and listeners that one step sends

# Schedules.
SCHEDULE_CATCH_UP_COUNT: Final = 1_000
SCHEDULE_BATCH_COUNT: Final = 4  # runs of one schedule before others get their turn
MISSED_SLICE_COUNT: Final = 10  # missed runs of a schedule that one step counts

# Retention.
RETENTION_INTERVAL_MS: Final = 60_000
CAPTURE_SLICE_COUNT: Final = 200  # changed rows a checkpoint reads between two looks at the time
FOLD_SLICE_COUNT: Final = 50  # promises that are folded between two looks at the time
TAGS_SLICE_COUNT: Final = 200  # promises whose tags are read after a start, as above
EVICTION_SLICE_COUNT: Final = 100  # rows that may leave memory, between two looks at the time
CHECKPOINT_APART_COUNT: Final = 1_000  # changed rows that are worth a process which writes them
CHECKPOINT_WRITER_WAIT_MS: Final = 2_000  # how long it waits for the next checkpoint
RETENTION_SLICE_COUNT: Final = 50  # promises deleted together, by one record
RETENTION_SCAN_COUNT: Final = 200  # promises looked at before others get their turn
RETENTION_RULES_LIMIT_BYTES: Final = 64 * 1024  # rules to try out, as text
RETENTION_RECHECK_MS: Final = 60_000  # a promise that had to wait is looked at again
LINEAGE_LIMIT_COUNT: Final = 1_000  # origins above a promise that are looked at; beyond, it stays

# Bulk jobs.
BULK_JOBS_LIMIT_COUNT: Final = 4  # that run at the same time
BULK_JOBS_KEPT_COUNT: Final = 100  # that have ended; the newest are kept
BULK_JOBS_KEPT_MS: Final = 7 * 86_400_000  # and these only for this long
BULK_RATE_COUNT: Final = 1_000  # things a second, unless the job says otherwise
BULK_RATE_LIMIT_COUNT: Final = 20_000
BULK_SLICE_COUNT: Final = 100  # things that one slice is about
BULK_EFFECTS_COUNT: Final = 100  # tasks and waiters of the promises that one slice completes
BULK_SCAN_COUNT: Final = 1_000  # things looked at before others get their turn
BULK_EXAMPLES_COUNT: Final = 20  # ids that a dry run shows
BULK_VALUE_LIMIT_BYTES: Final = 16 * 1024  # each promise that is completed keeps its own

# Delivery.
POLL_CONNECTIONS_LIMIT_COUNT: Final = 1_000
POLL_BUFFER_LIMIT_COUNT: Final = 100
POLL_KEEP_ALIVE_MS: Final = 15_000
POLL_STREAM_LIMIT_MS: Final = 240_000
"""How long a stream on the API port goes on before the server ends it: some clients go deaf at
300 s. Streams end up to a twelfth of this sooner or later, so that clients do not all come back
together."""
EVENT_STREAMS_LIMIT_COUNT: Final = 200  # of the live feed
PUSH_TIMEOUT_MS: Final = 10_000
PUSH_CONCURRENCY_PER_TARGET_COUNT: Final = 8
PUSH_CONCURRENCY_COUNT: Final = 256
CALLBACKS_LIMIT_COUNT: Final = 10_000  # waiting for one promise; its completion serves them all
TARGET_QUEUE_LIMIT_COUNT: Final = 10_000  # messages waiting for one target; the rest back off

# Functions and their code.
FUNCTION_NAME_LIMIT_BYTES: Final = 128
FUNCTION_DESCRIPTION_LIMIT_BYTES: Final = 80
FUNCTION_URL_LIMIT_BYTES: Final = 2048
FUNCTION_TIMEOUT_LIMIT_S: Final = 3600
FUNCTION_CPU_LIMIT_COUNT: Final = 256
FUNCTION_MEMORY_LIMIT_MB: Final = 1024 * 1024
FUNCTION_LATENCY_LIMIT_MS: Final = 60_000
FUNCTIONS_LIMIT_COUNT: Final = 10_000  # of one account
FUNCTION_LABELS_LIMIT_COUNT: Final = 64  # of one function
LABELS_LIMIT_COUNT: Final = 1_000  # of one account
LABEL_NAME_LIMIT_BYTES: Final = 80
BUILD_LIMIT_BYTES: Final = BODY_LIMIT_BYTES  # a package as it is uploaded
BUILDS_KEPT_COUNT: Final = 10  # of one function
BUILDS_WAITING_LIMIT_COUNT: Final = 64  # uploaded and not yet checked; beyond it: 503
BUILDS_OF_ACCOUNT_WAITING_LIMIT_COUNT: Final = 16
CODE_ENTRIES_LIMIT_COUNT: Final = 5_000
CODE_UNPACKED_LIMIT_BYTES: Final = 64 * 1024 * 1024
CODE_PATH_LIMIT_BYTES: Final = 512
CODE_DEPTH_LIMIT_COUNT: Final = 32
CODE_COMPRESSION_LIMIT_RATIO: Final = 200
HANDLER_LIMIT_BYTES: Final = 1024 * 1024
COMPILE_MEMORY_LIMIT_BYTES: Final = 1024 * 1024 * 1024
COMPILE_TIMEOUT_S: Final = 10

# Executions and nodes.
TASK_WAIT_LIMIT_MS: Final = 86_400_000  # from its creation, an execution has ended by then
FUNCTION_QUEUE_LIMIT_COUNT: Final = 100_000  # waiting executions of an account; beyond it: 429
FUNCTION_CALLS_CONCURRENCY_COUNT: Final = 256  # calls of HTTP functions at a time
FUNCTION_CALLS_PER_HOST_COUNT: Final = 16
NODE_HEARTBEAT_MS: Final = 3_000  # how often a node says what it is working on
NODE_LEASE_MS: Final = 10_000  # a node that is silent for this long has lost its tasks
NODE_SLOTS_LIMIT_COUNT: Final = 256
NODE_EXCHANGE_LIMIT_COUNT: Final = 32
"""Results, and tasks that are taken on, in one exchange of a node."""
NODES_LIMIT_COUNT: Final = 1_000  # of one account
RESULT_WAIT_LIMIT_S: Final = 60
RESULT_WAITS_LIMIT_COUNT: Final = 10_000  # clients waiting for results; others are not let wait
EXECUTION_PAGE_LIMIT_COUNT: Final = 1_000
EXECUTION_PAGES_LIMIT_COUNT: Final = 100_000  # executions that can be listed

ROOM_WAIT_LIMIT_MS: Final = 30_000  # how long a body of POST / may wait for room
STRANGER_BODY_LIMIT_BYTES: Final = 64 * 1024  # that may say in itself who sends it
STRANGERS_IN_FLIGHT_LIMIT_BYTES: Final = 4 * 1024 * 1024  # of these, all together
IN_FLIGHT_LIMIT_BYTES: Final = 64 * 1024 * 1024  # bodies, answers and messages, all together
POLL_CHUNK_BYTES: Final = 256 * 1024  # of messages in one write to a stream, or a single longer one

# Connections.
CONNECTION_LIMIT_COUNT: Final = 10_000
HEADER_TIMEOUT_MS: Final = 10_000
BODY_TIMEOUT_MS: Final = 30_000
KEEP_ALIVE_TIMEOUT_MS: Final = 180_000  # clients keep idle ones for 90 s, and must be first
CONNECTIONS_PER_ADDRESS_LIMIT_COUNT: Final = 0  # none: one host may run any number of workers
REFUSALS_AT_ONCE_COUNT: Final = 16  # connections being told that there is no room
DESCRIPTORS_RESERVE_COUNT: Final = 128  # for the server itself; half of them if there are fewer
DESCRIPTORS_LEAST_COUNT: Final = 48  # open files that a server must be allowed
SHUTDOWN_TIMEOUT_MS: Final = 10_000
SLOW_REQUEST_MS: Final = 1_000  # what takes longer is a slow request in the log
REQUEST_LINES_PER_SECOND_COUNT: Final = 100  # of the request log; the next line counts the others

# Sessions of browsers.
SESSIONS_LIMIT_COUNT: Final = 1_000
SESSIONS_OF_ONE_LIMIT_COUNT: Final = 100  # of one token, user or operator
SESSION_IDLE_LIMIT_MS: Final = 12 * 3_600_000
SESSION_LIMIT_MS: Final = 7 * 86_400_000
CODE_LIMIT_MS: Final = 60_000  # how long a one-time code works
CODES_LIMIT_COUNT: Final = 100  # that were not used yet

# Storage.
CHECKPOINT_INTERVAL_MS: Final = 60_000
CHECKPOINT_LOG_BYTES: Final = 64 * 1024 * 1024  # log growth that makes a checkpoint due
CHECKPOINT_LOG_BYTES_LEAST: Final = 1024 * 1024  # however little memory there is
SEGMENT_BYTES: Final = 16 * 1024 * 1024
SNAPSHOT_KEEP_COUNT: Final = 7  # scheduled snapshots that are kept
ARCHIVE_KEEP_MS: Final = 36_525 * 86_400_000  # a hundred years

# Between the processes of a server
FRAME_LIMIT_BYTES: Final = 256 * 1024 * 1024  # what one process sends another in one piece
LINK_OUTGOING_LIMIT_BYTES: Final = 16 * 1024 * 1024  # not yet sent to another process; then: 503
LINK_WAITING_LIMIT_COUNT: Final = 4_096  # questions that wait for a broken link; beyond it: 503
LINK_WAIT_MS: Final = 2_000  # how long they wait
LINK_PATIENCE_MS: Final = 30_000  # how long those wait whose clients may not be told of it
LINK_SILENCE_MS: Final = 2_000  # a link that says nothing for longer is broken
LINK_PING_MS: Final = 500  # a link that has nothing to say says so
COPY_LEASE_MS: Final = 2_000  # how long a copy counts as current without a word from its owner
COPY_LEASE_OF_NODES_MS: Final = 6_000  # if its owner may be on another node, and is replaced
COPY_RENEWAL_MS: Final = 500  # how often it asks
COPY_CHANGES_KEPT_COUNT: Final = 1_000  # a copy that is further behind is made again
COPY_PAGE_COUNT: Final = 500  # entries that are copied at a time
FENCE_PASS_MS: Final = 500  # how long a group keeps a task held for another at most
FENCE_PASSES_LIMIT_COUNT: Final = 100  # passes asked for, one after the other, for one command
PROCESS_CALLS_LIMIT_COUNT: Final = 4_096  # calls carried out, or waited for; then: 503
PARCELS_WAITING_COUNT: Final = 4_096  # messages on their way to another process; others wait
PARCELS_LIMIT_BYTES: Final = 8 * 1024 * 1024  # of these
PARCELS_LIMIT_COUNT: Final = 65_536  # with reports of them; beyond it all go again
FORWARDED_LIMIT_COUNT: Final = 3_072  # requests and streams among them, passed on; then: 503
ERRANDS_LIMIT_COUNT: Final = MAILBOX_LIMIT_COUNT  # commands that wait for other groups; then: 503

# Logs that are streams of an engine which replicates them
STREAM_LEASE_MS: Final = 2_000  # how long an owner may answer after sending what was acknowledged
STREAM_DRIFT_PERCENT: Final = 2  # what a clock that counts durations may be wrong by
STREAM_TAKEOVER_WAIT_MS: Final = (  # how long a new owner waits after the last it heard of another
    -(-STREAM_LEASE_MS * (100 + STREAM_DRIFT_PERCENT) // (100 - STREAM_DRIFT_PERCENT))
)
STREAM_ALIVE_MS: Final = 500  # an owner that has nothing to append says so
STREAM_SILENCE_MS: Final = 3_000  # an owner that is silent for longer is replaced
STREAM_LOOK_MS: Final = 100  # how often a node that stands by reads what the owner has appended
STREAM_LOOK_EXPECTED_MS: Final = 10  # the same if the owner is about to leave the group to it
STREAM_ANSWER_LIMIT_MS: Final = 5_000  # how long an engine may take to answer
JETSTREAM_ANSWER_LIMIT_MS: Final = 2_000  # how long one of several servers may; then another
JETSTREAM_DOUBT_MS: Final = 500  # how long one may refuse a frame and show none; then another
JETSTREAM_LEFT_MS: Final = 5_000  # for how long others are asked first then
STREAM_PATIENCE_MS: Final = 30_000  # how long an append may stay in doubt; then the server stops
JETSTREAM_BEHIND_MS: Final = 20_000  # how long a server that was cut off may show too little
STREAM_FRAME_LIMIT_BYTES: Final = 512 * 1024  # of records; larger batches go in parts
STREAM_READ_LIMIT_BYTES: Final = 8 * 1024 * 1024  # read in one piece
STREAM_TABLE_BYTES: Final = 64 * 1024 * 1024  # of one of the tables that are emptied in turn
STREAM_UPKEEP_MS: Final = 30_000  # how often an owner looks what can be trimmed
STREAM_READER_GONE_MS: Final = 3_600_000  # a node that is gone for longer holds no frame back
STREAM_READ_CHECKPOINT_BYTES: Final = 8 * 1024 * 1024  # after so much, a node that reads makes one
STREAM_SEEN_MS: Final = 1_000  # how often a node that stands by says so, if others share the groups
STREAM_SKEW_LIMIT_MS: Final = 1_000  # between the clocks of nodes; beyond it there is a warning
STREAM_SNAPSHOT_INTERVAL_MS: Final = 3_600_000
STREAM_SNAPSHOT_LOG_BYTES: Final = 1 << 30  # of the log since the last snapshot: one is due sooner
STREAM_PIECE_BYTES: Final = 512 * 1024  # of a snapshot
CLUSTER_NOTE_MS: Final = 500  # how often a node that shares groups says that it is there
CLUSTER_NAME_TAKEN_MS: Final = 12_000  # a name that was noted since may be another server's
CLUSTER_LIVING_MS: Final = 2_500  # one that has not said so for longer counts as gone
CLUSTER_ALONE_MS: Final = 15_000  # one that shares none says so less often
CLUSTER_STANDING_BY_MS: Final = 2_500  # as long may be since it has said that it reads a group
CLUSTER_CLAIM_STEP_MS: Final = 300  # how much later the next node claims a group that is free
CLUSTER_MOVE_INTERVAL_MS: Final = 1_000  # after a group has got an owner, before the next moves
CLUSTER_STAY_MS: Final = 5_000  # how long a group stays where it is before it moves on
CLUSTER_AWAY_MS: Final = 15_000  # how long a group may be away before a node that serves is unready
CLUSTER_NOTICE_MS: Final = 5_000  # how long a drained node is not ready before its groups go
JETSTREAM_MESSAGE_LIMIT_BYTES: Final = 1024 * 1024  # what a NATS server takes by default
JETSTREAM_COPIES_LIMIT_COUNT: Final = 5  # of a stream; NATS has no more

assert PARCELS_WAITING_COUNT < PARCELS_LIMIT_COUNT
assert ID_LIMIT_BYTES < REQUEST_HEADERS_LIMIT_BYTES, "an id must fit into a request line"
assert COPY_RENEWAL_MS * 2 < COPY_LEASE_MS, "one word that is lost must not make a copy stale"
assert LARGE_BODY_BYTES <= CLOSED_BODY_LIMIT_BYTES < BODY_LIMIT_BYTES
assert RETENTION_RULES_LIMIT_BYTES < CLOSED_BODY_LIMIT_BYTES
assert BATCH_LIMIT_COUNT <= MAILBOX_LIMIT_COUNT
assert LEASE_LEAST_MS <= TASK_CLAIM_TIMEOUT_MS
assert TASK_RETRY_FIRST_MS <= TASK_RETRY_LIMIT_MS
assert PUSH_TIMEOUT_MS <= TASK_RETRY_LIMIT_MS
assert PUSH_CONCURRENCY_PER_TARGET_COUNT <= PUSH_CONCURRENCY_COUNT
assert RETENTION_SLICE_COUNT <= RETENTION_SCAN_COUNT
assert BULK_SLICE_COUNT <= BULK_SCAN_COUNT
assert COMPLETION_SLICE_COUNT <= BULK_EFFECTS_COUNT, "a slice may complete any one promise"
assert BULK_RATE_COUNT <= BULK_RATE_LIMIT_COUNT
assert NODE_HEARTBEAT_MS * 2 < NODE_LEASE_MS
assert BODY_LIMIT_BYTES < LOG_PENDING_LIMIT_BYTES
assert STREAM_ALIVE_MS * 2 < STREAM_LEASE_MS < STREAM_TAKEOVER_WAIT_MS < STREAM_SILENCE_MS
assert COPY_LEASE_OF_NODES_MS > STREAM_SILENCE_MS * 3 // 2, "a copy outlives its owner's node"
assert CLUSTER_NOTE_MS * 4 < CLUSTER_LIVING_MS < STREAM_SILENCE_MS
assert STREAM_SEEN_MS * 2 < CLUSTER_STANDING_BY_MS
assert STREAM_FRAME_LIMIT_BYTES < STREAM_READ_LIMIT_BYTES
assert STREAM_FRAME_LIMIT_BYTES + 4096 < JETSTREAM_MESSAGE_LIMIT_BYTES < STREAM_READ_LIMIT_BYTES
assert STREAM_PIECE_BYTES + 4096 < JETSTREAM_MESSAGE_LIMIT_BYTES
assert STREAM_UPKEEP_MS * 10 < STREAM_READER_GONE_MS
assert LARGE_ANSWER_BYTES <= IN_FLIGHT_LIMIT_BYTES
assert BUILD_LIMIT_BYTES <= BODY_LIMIT_BYTES, "a package is the body of a request"
assert HANDLER_LIMIT_BYTES <= CODE_UNPACKED_LIMIT_BYTES


def saturating_add(left: int, right: int) -> int:
    """Add two integers and keep the sum within 64 bits (decisions.md 1: never wrap)."""
    total = left + right
    if total > INTEGER_MAX:
        return INTEGER_MAX
    return max(total, INTEGER_MIN)


def lease_end(now_ms: int, ttl: int) -> int:
    """Return when a lease that begins or is renewed now ends."""
    return saturating_add(now_ms, max(ttl, LEASE_LEAST_MS))
