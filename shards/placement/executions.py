"""Executions on their way to a node or call, and nodes: what placement knows of each.

    send() -> QUEUED -> HANDED (to a node's stream) -> SENT (written to its socket) -> RUNNING
                ^          | the stream ended first      | claim timeout, lapse, return: send()
                +----------+-----------------------------+

A call is SENT when it begins, and RUNNING when the shards have given it a lease.
A queued execution costs a few hundred bytes: of its message only what placing it needs is kept.
"""

from enum import Enum
from typing import NamedTuple, final
from urllib.parse import urlsplit

from troth.core.catalog import EXECUTION_PREFIX, Capabilities, FunctionKind, Language, Node
from troth.core.executions import ExecutionPlan
from troth.core.grammar.task_ids import invoke_id

from .node_connections import NodeConnection


class Stage(Enum):
    """Where an execution is; see the drawing above."""

    QUEUED = "queued"
    HANDED = "handed"
    SENT = "sent"
    RUNNING = "running"


class Requirement(NamedTuple):
    """What an execution demands of the node that runs it. Executions with the same one wait
    together.
    """

    language: Language
    cpu_count: int = 0
    memory_mb: int = 0
    network_latency_ms: int = 0
    privileged: bool = False


class Host(NamedTuple):
    """Where an HTTP function is: host and port, in lower case. Calls are limited by it."""

    name: str


Need = Requirement | Host
"""What an execution waits for."""


class Offer(NamedTuple):
    """What a node can give. Nodes with the same one are interchangeable, but for their owner."""

    languages: frozenset[Language]
    capabilities: Capabilities

    def meets(self, requirement: Need) -> bool:
        """Return whether an execution may run there; 0 and False demand nothing."""
        has = self.capabilities
        return (
            isinstance(requirement, Requirement)
            and requirement.language in self.languages
            and requirement.cpu_count <= has.cpu_count
            and requirement.memory_mb <= has.memory_mb
            and (
                requirement.network_latency_ms == 0
                or has.network_latency_ms <= requirement.network_latency_ms
            )
            and (has.privileged or not requirement.privileged)
        )

    @property
    def size(self) -> tuple[bool, int, int, int]:
        """A sort key that puts last the nodes that other executions may need more."""
        has = self.capabilities
        return has.privileged, has.cpu_count, has.memory_mb, len(self.languages)


Order = tuple[int, int, str]
"""Who comes first within an account: the older execution; among those of one millisecond any order.
"""


@final
class PlacedExecution:
    """One execution that waits for a node or a call, or is with one. Compared by identity.

    `is_ending` says that its node or call has reported a result, and need not be told that it
    ended.
    """

    __slots__ = (
        "account_id",
        "build_id",
        "counter",
        "is_ending",
        "need",
        "node",
        "order",
        "promise_id",
        "stage",
    )

    def __init__(self, promise_id: str, counter: int, plan: ExecutionPlan, order: Order) -> None:
        """Begin as QUEUED."""
        self.promise_id = promise_id
        self.counter = counter
        self.account_id = plan.account_id
        self.build_id = plan.build_id
        self.need = need_of(plan)
        self.order = order
        self.stage = Stage.QUEUED
        self.node: NodePlace | None = None
        self.is_ending = False

    @property
    def id(self) -> str:
        """The execution's id, as clients and nodes know it."""
        return self.promise_id.removeprefix(EXECUTION_PREFIX)

    @property
    def task_id(self) -> str:
        """The id of the invoke task that is leased."""
        return invoke_id(self.promise_id)


@final
class NodePlace:
    """A node: its entry in the catalog, its stream, and the executions that are with it.

    `ending` are those of them whose result has come in and is being made durable.
    """

    __slots__ = ("connection", "ending", "entry", "executions", "is_resting", "offer")

    def __init__(self, entry: Node) -> None:
        """Begin without a stream."""
        self.connection: NodeConnection[PlacedExecution] | None = None
        self.executions: dict[str, PlacedExecution] = {}
        self.ending: set[str] = set()
        self.is_resting = False
        self.take(entry)

    def take(self, entry: Node) -> None:
        """Become what a changed entry says. `FreeNodes` must not hold this node at that time."""
        self.entry = entry
        self.offer = Offer(frozenset(entry.languages), entry.offers)

    @property
    def id(self) -> str:
        """The node's id."""
        return self.entry.id

    @property
    def is_available(self) -> bool:
        """Return whether its stream is connected."""
        return self.connection is not None

    @property
    def has_room(self) -> bool:
        """Return whether it may be given an execution now."""
        entry = self.entry
        return (
            self.connection is not None
            and len(self.executions) - len(self.ending) < entry.slots_count
            and not (entry.disabled or entry.draining or entry.deleted or self.is_resting)
        )

    @property
    def pool(self) -> str | None:
        """The only account whose executions it runs; None if it runs those of all accounts."""
        return None if self.entry.shared else self.entry.account_id


def need_of(plan: ExecutionPlan) -> Need:
    """Return what a plan's execution waits for: a suitable node, or a free call."""
    if plan.kind is FunctionKind.HTTP:
        return Host(urlsplit(plan.url or "").netloc.rpartition("@")[2].lower())
    assert plan.language is not None, "code has a language"
    wanted = plan.capabilities
    return Requirement(
        plan.language,
        wanted.cpu_count,
        wanted.memory_mb,
        wanted.network_latency_ms,
        wanted.privileged,
    )
