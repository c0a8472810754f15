"""What the cluster is that a server belongs to: `GET /cluster`."""

from typing import Annotated

from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.wire.answers import time_ms, told
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response
from troth.persistence.streams.cluster import (
    GroupSeen,
    MemberSeen,
    WholeCluster,
)
from troth.persistence.streams.sharing import Wishes
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable


class FollowerObject(Struct, gc=False, rename="camel"):
    """How far a node is that stands by for a group."""

    node: Annotated[str, told("Its name.", "two")]
    behind: Annotated[int, told("Frames it has yet to read.", 12)]
    seen_on: Annotated[int, time_ms("When it said so")]


class ClusterGroupObject(Struct, gc=False, rename="camel"):
    """A group of shards, which has a log of its own."""

    group: Annotated[int, told("Its number.", 0)]
    owner: Annotated[str | None, told("Its owner; null if unknown.", "one")]
    wished: Annotated[str | None, told("Who is to own it; null: any node.", "one")]
    epoch: Annotated[int, told("How many owners there have been.", 3)]
    last_frame: Annotated[int, told("The number of the last frame of its log.", 4_711)]
    snapshot_on: Annotated[
        int | None, time_ms("When the newest snapshot was taken; null if there is none")
    ]
    followers: Annotated[list[FollowerObject], told("The other nodes that read its log.")]


class ClusterNodeObject(Struct, gc=False, rename="camel"):
    """A node: a server of the cluster."""

    node: Annotated[str, told("Its name.", "one")]
    address: Annotated[str, told("Where clients reach it.", "http://one:8001")]
    version: Annotated[str, told("Its version of Troth.", "0.1.0")]
    features: Annotated[int, told("What it can read.", 1)]
    is_drained: Annotated[bool, told("Whether it is to own nothing.", False)]
    seen_on: Annotated[int, time_ms("When it was last there")]


class ClusterObject(Struct, gc=False, rename="camel"):
    """The cluster of a server. Without one, the name is null and the lists are empty."""

    name: Annotated[str | None, told("Its name.", "orders")]
    features: Annotated[int, told("What its nodes may write.", 1)]
    groups: list[ClusterGroupObject]
    nodes: list[ClusterNodeObject]


def cluster_object(cluster: WholeCluster, now_ms: int) -> ClusterObject:
    """Return what the API says of a cluster."""
    description = cluster.description
    if description is None:
        return ClusterObject(None, 0, [], [])
    return ClusterObject(
        description.name,
        description.features,
        [_group_object(group, cluster.wishes, now_ms) for group in cluster.groups],
        [_node_object(member, cluster.wishes, now_ms) for member in cluster.members],
    )


def _group_object(group: GroupSeen, wishes: Wishes, now_ms: int) -> ClusterGroupObject:
    return ClusterGroupObject(
        group.group,
        group.node,
        wishes.placed.get(group.group),
        group.epoch,
        group.last_number,
        None if group.snapshot_ms is None else now_ms - group.snapshot_ms,
        [
            FollowerObject(one.node, max(group.last_number - one.number, 0), now_ms - one.seen_ms)
            for one in group.readers
            if one.node != group.node
        ],
    )


def _node_object(member: MemberSeen, wishes: Wishes, now_ms: int) -> ClusterNodeObject:
    return ClusterNodeObject(
        member.node,
        member.address,
        member.version,
        member.features,
        member.node in wishes.drained,
        now_ms - member.seen_ms,
    )


async def cluster(api: Api, call: Call) -> Response:
    """GET /cluster."""
    del call
    if api.cluster is None:
        return answer(Code.OK, ClusterObject(None, 0, [], []))
    try:
        found = await api.cluster()
    except (StreamUnreachable, StreamRefused) as error:
        message = "What keeps the log does not answer. Send the request again shortly."
        raise ApiError(Code.OUT_OF_REACH, message=message) from error
    return answer(Code.OK, cluster_object(found, api.now_ms()))


ENDPOINTS = (
    Endpoint(
        name="cluster",
        group="Server",
        method="GET",
        path="/cluster",
        summary="Show the cluster that this server belongs to",
        description=(
            "Groups with their owners, nodes, and how far those are that stand by, as told to the "
            "engine about twice a minute; and what the operator wishes."
        ),
        handler=cluster,
        scope=Scope.METRICS_READ,
        successes=(Success(200, "Groups and nodes.", ClusterObject),),
        refusals=(Code.OUT_OF_REACH,),
        examples=("troth cluster status orders --log postgresql://troth@db.example/troth",),
    ),
)
