"""The catalog: accounts, tokens, functions, labels, builds, nodes and bulk jobs, as plain data.

Executions refer to these. An *entry* is small, changes seldom and is always in memory;
it lives in the shard of its id. A change replaces the whole entry and raises its revision by one,
so that two changes at a time cannot swallow each other. Times are milliseconds since the Unix
epoch.

The API calls labels "tags" (greencloud.md 9); here that word is taken by the tags of promises.
"""

from enum import StrEnum

from msgspec import Struct

from .bulk import BulkJob


class Scope(StrEnum):
    """What a token allows its bearer to do."""

    PROMISES_READ = "promises:read"
    PROMISES_WRITE = "promises:write"
    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    FUNCTIONS_READ = "functions:read"
    FUNCTIONS_WRITE = "functions:write"
    NODE = "node"
    METRICS_READ = "metrics:read"
    ADMIN = "admin"


class FunctionKind(StrEnum):
    """How a function is run: by calling a URL, or as code on a node."""

    HTTP = "HTTP"
    CODE = "CODE"


class Language(StrEnum):
    """The languages nodes can run, as the API spells them."""

    PYTHON = "PY"
    JAVASCRIPT = "JS"


class BuildStatus(StrEnum):
    """The states of a build (greencloud.md 7). All but PENDING are final."""

    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


class Capabilities(Struct, frozen=True, array_like=True, gc=False):
    """What a function demands of a node; 0 and False demand nothing (greencloud.md 4, 12).

    `timeout_s` is how long one execution may take, counted from its assignment.
    """

    timeout_s: int = 10
    cpu_count: int = 0
    memory_mb: int = 0
    network_latency_ms: int = 0
    privileged: bool = False


class Account(Struct, frozen=True, array_like=True, gc=False, tag="account/1"):
    """The owner of functions, tasks, nodes and tokens. `name` is unique among accounts."""

    id: str
    revision: int
    created_on: int
    name: str
    disabled: bool = False


class Token(Struct, frozen=True, array_like=True, gc=False, tag="token/1"):
    """A credential of an account. Only the SHA-256 of the secret is kept, in hexadecimal.

    With an `id_prefix` it may touch only promises whose ids begin with it. `expires_on` and
    `revoked_on` are None as long as there is no such time. `used_on` is when it was last used, some
    minutes more or less. After a rotation the secret before, `old_digest`, works until `old_until`.
    """

    id: str
    revision: int
    created_on: int
    account_id: str
    digest: str
    scopes: tuple[Scope, ...]
    name: str = ""
    id_prefix: str = ""
    expires_on: int | None = None
    revoked_on: int | None = None
    used_on: int | None = None
    old_digest: str = ""
    old_until: int | None = None


class Label(Struct, frozen=True, array_like=True, gc=False, tag="label/1"):
    """A name that an account gives to several of its functions."""

    id: str
    revision: int
    created_on: int
    account_id: str
    name: str
    color: str = ""


class Function(Struct, frozen=True, array_like=True, gc=False, tag="function/1"):
    """What an execution runs. `url` is for HTTP functions, `language` and `build_id` for code.

    `build_id` names the newest successful build; None until there is one.
    """

    id: str
    revision: int
    created_on: int
    account_id: str
    name: str
    kind: FunctionKind
    description: str = ""
    label_ids: tuple[str, ...] = ()
    language: Language | None = None
    url: str | None = None
    build_id: str | None = None
    paused: bool = False
    capabilities: Capabilities = Capabilities()


class BuildStep(Struct, frozen=True, array_like=True, gc=False):
    """When a build took on a status."""

    status: BuildStatus
    at: int


class Build(Struct, frozen=True, array_like=True, gc=False, tag="build/1"):
    """One upload of a function's code. The package itself is a promise, `package_id(build.id)`.

    `digest` is the package's SHA-256 in hexadecimal, by which nodes keep what they have unpacked.
    """

    id: str
    revision: int
    created_on: int
    account_id: str
    function_id: str
    status: BuildStatus
    digest: str
    size_bytes: int
    architecture: str = "amd64"
    timeline: tuple[BuildStep, ...] = ()
    log: tuple[str, ...] = ()


class Node(Struct, frozen=True, array_like=True, gc=False, tag="node/1"):
    """A machine that runs functions. Its id is a UUID with dashes, which it made itself.

    `shared` nodes run every account's functions, others only those of their own account. `offers`
    is the most a function may demand here. A deleted node may come back.
    """

    id: str
    revision: int
    created_on: int
    account_id: str
    description: str = ""
    languages: tuple[Language, ...] = ()
    offers: Capabilities = Capabilities()
    slots_count: int = 1
    shared: bool = False
    disabled: bool = False
    draining: bool = False
    deleted: bool = False


Entry = Account | Token | Label | Function | Build | Node | BulkJob

RESERVED_PREFIX = "troth:"
"""Ids of promises that begin so are the server's own: no client of the promise API sees them."""

EXECUTION_PREFIX = RESERVED_PREFIX + "task/"
PACKAGE_PREFIX = RESERVED_PREFIX + "archive/"


def is_reserved(identifier: str) -> bool:
    """Return whether a promise, schedule or task of this id is the server's own."""
    return identifier.startswith(RESERVED_PREFIX)


def execution_promise_id(execution_id: str) -> str:
    """Return the promise behind an execution (24 hexadecimal digits)."""
    return EXECUTION_PREFIX + execution_id


def package_id(build_id: str) -> str:
    """Return the promise, resolved from its creation, that holds a build's package as its value."""
    return PACKAGE_PREFIX + build_id
