"""Before a node serves groups with others: do those that are there let it in?"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from troth.core.limits import CLUSTER_LIVING_MS
from troth.http.links.admission import refusal_of
from troth.http.links.tls_end import LinkTls
from troth.http.settings.kinds import Listen
from troth.http.settings.settings import Settings
from troth.persistence.streams.cluster import ClusterBook
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable
from troth.shards.guard.trust import ClusterTrust
from troth.shards.mesh.owners import Owner

from .mesh_files import MeshFilesRefused, read_mesh_files


def check_mesh(settings: Settings) -> bytes:
    """Read the files that links need, and ask the nodes that are there; return the secret.

    If it is not known which nodes are there, none is asked. Raises MeshFilesRefused.
    """
    # Only here: other servers need none of it.
    from troth.shards.streams.stream_opening import cluster_book, node_name

    secret, tls = read_mesh_files(settings)
    assert settings.log is not None, "checked with the settings"
    assert settings.cluster is not None, "checked with the settings"
    trust = ClusterTrust(settings.cluster, secret)
    node = node_name(settings.node, Path(settings.data))
    try:
        with contextlib.closing(cluster_book(settings.log)) as book:
            for name, problem in _refusals(book, trust, node, tls).items():
                # Asked once more: the process that was asked may just have ended.
                if name in _refusals(book, trust, node, tls):
                    raise MeshFilesRefused(
                        f"Cannot serve: the server {name} does not let this one in: {problem}. All "
                        "servers of a cluster have the same secret, and all have certificates of "
                        "one authority, or none has."
                    )
    except (StreamUnreachable, StreamRefused):
        pass  # it is waited for, or said, when the group is opened
    return secret


def _refusals(
    book: ClusterBook, trust: ClusterTrust, node: str, tls: LinkTls | None
) -> dict[str, str]:
    """Return which nodes do not let this one in, and why."""
    found = {
        owner.node: refusal_of(trust, node, owner, group, tls)
        for group, owner in _others(book, node)
    }
    return {name: problem for name, problem in found.items() if problem is not None}


def _others(book: ClusterBook, node: str) -> Iterator[tuple[int, Owner]]:
    """Yield a group of each other node that lives, with where its owner is."""
    places = {
        one.node: Listen().from_text(one.mesh)
        for one in book.members()
        if one.mesh is not None and one.node != node and one.seen_ms <= CLUSTER_LIVING_MS
    }
    for one in book.holders():
        if one.node in places:
            place = places.pop(one.node)
            yield one.group, Owner(one.node, place.host, place.port, one.epoch)
