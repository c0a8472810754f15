"""All interleavings of a few nodes at one stream, within bounds, and what must not happen in them.

The nodes are real `Ownership` values; the stream is a list of frames, with frames under way to it
that land late or never, acknowledgments that come late or never, and looks that show less than
there is. Time passes in ticks; only differences count, so the number of ticks is not bounded.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec.structs import replace

from troth.persistence.streams.ownership import Ownership, Standing
from troth.persistence.streams.stream_frames import FrameKind, StreamFrame

LEASE_TICKS: Final = 1
LONG_AGO: Final = -LEASE_TICKS
"""What was so long ago makes no difference any more."""


class Bounds(NamedTuple):
    """How often what may happen, in all nodes together."""

    owners: int = 2
    followers: int = 1
    claims: int = 2
    appends: int = 3
    alives: int = 0
    releases: int = 1
    crashes: int = 1
    successions: int = 0
    doubts: int = 1


class Node(NamedTuple):
    """One node. `incarnation` is 0 for one that only follows.

    It knows that the process `ended` is gone, if there is one: it has come in its place.
    """

    incarnation: int
    ownership: Ownership = Ownership(heard_ms=LONG_AGO, sent_ms=LONG_AGO)
    ended: int = 0


class World(NamedTuple):
    """Everything there is, at time 0. `left` is what of the bounds has not happened yet.

    `on_the_way` are frames that were sent and may still land. Clients have had answers that show
    the stream up to frame `answered`.
    """

    nodes: tuple[Node, ...]
    stream: tuple[StreamFrame, ...]
    on_the_way: frozenset[StreamFrame]
    answered: int
    left: Bounds


def first_world(bounds: Bounds) -> World:
    """Return the world in which nothing has happened yet."""
    owners = tuple(Node(place + 1) for place in range(bounds.owners))
    return World(owners + (Node(0),) * bounds.followers, (), frozenset(), 0, bounds)


def _frame(kind: FrameKind, node: Node, number: int, epoch: int) -> StreamFrame:
    return StreamFrame(kind, number, epoch, node.incarnation, 0, 0, 0, 0, b"")


Move = tuple[str, World]


def moves(world: World) -> Iterator[Move]:
    """Yield everything that may happen next, in words, and the world after it."""
    yield "a tick passes", _later(world)
    for frame in world.on_the_way:
        if frame.number == len(world.stream) + 1:
            yield (
                f"frame {frame.number} of {frame.incarnation} lands",
                _settled(
                    world._replace(
                        stream=(*world.stream, frame), on_the_way=world.on_the_way - {frame}
                    )
                ),
            )
    for place, node in enumerate(world.nodes):
        for what, after, changed in _node_moves(world, node):
            nodes = (*world.nodes[:place], after, *world.nodes[place + 1 :])
            yield f"node {place} {what}", changed._replace(nodes=nodes)


def _node_moves(world: World, node: Node) -> Iterator[tuple[str, Node, World]]:
    own, left = node.ownership, world.left
    stands = world.stream[own.number] if own.number < len(world.stream) else None
    if own.standing is Standing.FOLLOWING:
        if stands is not None:
            read = own.received(stands, 0)
            has_ended = bool(node.ended) and stands.incarnation == node.ended
            yield "reads", _with(node, read.owner_has_ended() if has_ended else read), world
        # The owners are alike: that the first claims first leaves nothing out.
        has_begun = world.stream or world.on_the_way or node is world.nodes[0]
        if node.incarnation and left.claims and has_begun:
            frame = _frame(FrameKind.OWNER, node, own.number + 1, own.epoch + 1)
            yield "claims", _with(node, own.claim(frame, 0)), _sent(world, frame, claims=1)
    if own.is_to_send:
        assert own.in_flight is not None
        if stands == own.in_flight:
            yield "is acknowledged", _with(node, own.acknowledged()), world
        if left.doubts or stands is not None:  # who is refused is not counted
            taken = 0 if stands not in (None, own.in_flight) else 1
            if taken <= left.doubts:
                after = _with(node, own.unanswered())
                yield "is not answered", after, _spent(world, doubts=taken)
    if own.is_in_doubt:
        assert own.in_flight is not None
        if stands is not None:
            yield "finds", _with(node, own.found(stands)), world
        yield "finds nothing", _with(node, own.found(None)), _sent(world, own.in_flight)
    if own.standing is Standing.OWNING:
        yield from _owner_moves(world, node)
    if own.may_answer(0) and own.durable_number > world.answered:
        yield "answers", node, world._replace(answered=own.durable_number)
    if node.incarnation and left.crashes and own.number:
        yield "crashes", Node(node.incarnation + 10), _spent(world, crashes=1)
    if node.incarnation and left.successions and own.number:
        after = Node(node.incarnation + 10, ended=node.incarnation)
        yield "is succeeded", after, _spent(world, successions=1)


def _owner_moves(world: World, node: Node) -> Iterator[tuple[str, Node, World]]:
    own, left = node.ownership, world.left
    if left.appends:
        frame = _frame(FrameKind.RECORDS, node, own.number + 1, own.epoch)
        yield "appends", _with(node, own.append(frame, 0)), _sent(world, frame, appends=1)
    if left.alives:
        frame = _frame(FrameKind.ALIVE, node, own.number + 1, own.epoch)
        yield "says it is alive", _with(node, own.append(frame, 0)), _sent(world, frame, alives=1)
    if left.releases and own.serves_from_ms <= 0:
        frame = _frame(FrameKind.RELEASED, node, own.number + 1, own.epoch)
        yield "releases", _with(node, own.append(frame, 0)), _sent(world, frame, releases=1)


def _with(node: Node, after: Ownership) -> Node:
    if not node.incarnation:  # it never claims: what it has read is all
        return node._replace(ownership=Ownership(number=after.number, heard_ms=LONG_AGO))
    return node._replace(ownership=_essential(after))


def _spent(world: World, **counts: int) -> World:
    left = world.left._replace(
        **{name: getattr(world.left, name) - counts[name] for name in counts}
    )
    return world._replace(left=left)


def _sent(world: World, frame: StreamFrame, **counts: int) -> World:
    world = _spent(world, **counts)
    return _settled(world._replace(on_the_way=world.on_the_way | {frame}))


def _settled(world: World) -> World:
    """Leave out what cannot land any more: another frame has its number."""
    there = frozenset(one for one in world.on_the_way if one.number > len(world.stream))
    return world._replace(on_the_way=there)


def _later(world: World) -> World:
    return world._replace(nodes=tuple(_with(node, _older(node.ownership)) for node in world.nodes))


def _older(own: Ownership) -> Ownership:
    return replace(
        own,
        heard_ms=max(own.heard_ms - 1, LONG_AGO),
        sent_ms=max(own.sent_ms - 1, LONG_AGO),
        serves_from_ms=max(own.serves_from_ms - 1, 0),
        lease_until_ms=max(own.lease_until_ms - 1, 0),
    )


def _essential(own: Ownership) -> Ownership:
    """Return an ownership without what makes no difference to anything that can follow."""
    if own.standing in (Standing.RELEASED, Standing.DEPOSED):
        return Ownership(own.standing)
    if own.standing is Standing.FOLLOWING:
        return replace(own, sent_ms=LONG_AGO, serves_from_ms=0, lease_until_ms=0, durable_number=0)
    sent_ms = LONG_AGO if own.in_flight is None else own.sent_ms
    return replace(own, heard_ms=LONG_AGO, is_free=False, sent_ms=sent_ms)


def complaint(world: World) -> str | None:
    """Return what is wrong with a world, or None."""
    answering = [node.ownership for node in world.nodes if node.ownership.may_answer(0)]
    if len(answering) > 1:
        return "two nodes may answer"
    for own in answering:
        if own.number < world.answered:
            return "a node may answer with a state older than what clients have seen"
        if own.standing is not Standing.OWNING:
            continue
        if len(world.stream) < own.number or world.stream[own.number - 1].epoch != own.epoch:
            return "an owner's last frame is not in the stream"
    if world.answered > len(world.stream):
        return "clients have seen what is not in the stream"
    sent = [frame for frame in world.stream if frame.kind is FrameKind.RECORDS]
    if any(node.ownership.number > len(world.stream) for node in world.nodes):
        return "a node knows of more than there is"
    if any(node.ownership.durable_number > len(world.stream) for node in world.nodes):
        return "a frame is called durable that is not in the stream"
    epochs = [frame.epoch for frame in world.stream]
    if epochs != sorted(epochs) or len(set(sent)) != len(sent):
        return "the stream has a frame twice, or an old owner's behind a new one's"
    return None


class Result(NamedTuple):
    """What a search has found: how many worlds, which standings, and the way to what is wrong."""

    worlds_count: int
    standings: frozenset[Standing]
    complaint: str | None = None
    way: tuple[str, ...] = ()


def search(bounds: Bounds) -> Result:
    """Look at all worlds that can be reached, nearest first, until one is wrong."""
    first = first_world(bounds)
    came_from: dict[World, tuple[str, World] | None] = {first: None}
    layer = [first]
    standings: set[Standing] = set()
    while layer:
        following = []
        for world in layer:
            standings.update(node.ownership.standing for node in world.nodes)
            for what, after in moves(world):
                if after in came_from:
                    continue
                came_from[after] = (what, world)
                problem = complaint(after)
                if problem is not None:
                    way = tuple(_way(came_from, after))
                    return Result(len(came_from), frozenset(standings), problem, way)
                following.append(after)
        layer = following
    return Result(len(came_from), frozenset(standings))


def _way(came_from: dict[World, tuple[str, World] | None], world: World) -> list[str]:
    way = []
    step = came_from[world]
    while step is not None:
        way.append(step[0])
        step = came_from[step[1]]
    return way[::-1]
