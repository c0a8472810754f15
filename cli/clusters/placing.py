"""What `troth cluster move` and `drain` wish, and when they are refused."""

from collections.abc import Sequence
from typing import Final

import click

from troth.cli.output import span
from troth.persistence.streams.cluster import ClusterDescription, MemberSeen
from troth.persistence.streams.sharing import Wishes

PRESENT_MS: Final = 30_000
"""A node that has said for this long nothing is shown as away."""


def moved(
    found: ClusterDescription,
    members: Sequence[MemberSeen],
    wishes: Wishes,
    group: int,
    node: str | None,
) -> Wishes:
    """Return the wishes with a group at a node, or at none in particular.

    Raises click.ClickException if that cannot be.
    """
    last = found.identity.groups_count - 1
    if not 0 <= group <= last:
        raise _refused(f"{found.name} has no group {group}: its groups are 0 to {last}")
    placed = {one: wished for one, wished in wishes.placed.items() if one != group}
    if node is None:
        return wishes._replace(placed=placed)
    _check_there(found, members, node)
    if node in wishes.drained:
        raise _refused(
            f"{node} is drained. First: troth cluster drain {found.name} --log URL {node} --end"
        )
    return wishes._replace(placed={**placed, group: node})


def drained(
    found: ClusterDescription, members: Sequence[MemberSeen], wishes: Wishes, node: str
) -> Wishes:
    """Return the wishes with a node without groups. Raises click.ClickException."""
    _check_there(found, members, node)
    others = {one.node for one in members if one.mesh and one.seen_ms <= PRESENT_MS} - {node}
    if not others - wishes.drained:
        raise _refused(f"no other node that is there would be left to have the groups of {node}")
    return wishes._replace(drained=wishes.drained | {node})


def no_longer_drained(
    found: ClusterDescription, members: Sequence[MemberSeen], wishes: Wishes, node: str
) -> Wishes:
    """Return the wishes with a node that may have groups. Raises click.ClickException."""
    if node not in wishes.drained and all(one.node != node for one in members):
        raise _unknown(found, members, node)
    return wishes._replace(drained=wishes.drained - {node})


def _check_there(found: ClusterDescription, members: Sequence[MemberSeen], node: str) -> None:
    """Raise click.ClickException unless a node is there and shares groups."""
    member = next((one for one in members if one.node == node), None)
    if member is None:
        raise _unknown(found, members, node)
    if member.seen_ms > PRESENT_MS:
        raise _refused(f"{node} is away: it was last there {span(member.seen_ms)} ago")
    if member.mesh is None:
        raise _refused(f"the nodes of {found.name} do not share groups (--mesh-listen)")


def _unknown(
    found: ClusterDescription, members: Sequence[MemberSeen], node: str
) -> click.ClickException:
    names = ", ".join(one.node for one in members) or "none yet"
    return _refused(f"{found.name} has no node {node}. Its nodes: {names}")


def _refused(problem: str) -> click.ClickException:
    return click.ClickException(f"{problem}. Nothing was changed.")
