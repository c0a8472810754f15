"""Whether other nodes let one in: asked of a real door, before anything is served."""

import socket
from pathlib import Path

import pytest
import trio
import trustme

from tests.shards.guard.ends import SECRET
from troth.http.links.admission import refusal_of
from troth.http.links.tls_end import LinkTls
from troth.shards.guard.trust import ClusterTrust
from troth.shards.mesh.owners import Owner

from .certificates import make_files
from .nodes import HOST, Cluster, cluster

OTHER_SECRET = b"another secret than that of the cluster"


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LinkTls | None]:
    """Return what nodes have: certificates of one authority, of another one, or none."""
    directory = tmp_path_factory.mktemp("certificates")
    ours, theirs = trustme.CA(), trustme.CA()
    return {
        "ours": make_files(directory / "ours", ours, ours, HOST).load(),
        "stranger": make_files(directory / "stranger", theirs, ours, HOST).load(),
        "elsewhere": make_files(directory / "elsewhere", ours, theirs, HOST).load(),
        "none": None,
    }


async def _refusal(found: Cluster, tls: LinkTls | None, secret: bytes = SECRET) -> str | None:
    trust = ClusterTrust("shop", secret)
    return await trio.to_thread.run_sync(refusal_of, trust, "new", found.owners[1], 1, tls)


async def test_who_has_the_secret_is_let_in_and_nobody_takes_it_for_an_owner(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as found:
        served = await found.start("north", 1)
        assert await _refusal(found, None) is None
        assert served.process.mesh.owners.of(0) is None
        problem = await _refusal(found, None, OTHER_SECRET)
        assert problem == "it has another secret, or is of another cluster"


@pytest.mark.parametrize(
    ("there", "here", "problem"),
    [
        ("ours", "ours", None),
        ("ours", "stranger", "ALERT_UNKNOWN_CA"),
        ("ours", "elsewhere", "self-signed certificate in certificate chain"),
        ("ours", "none", "it waits for TLS"),
        ("none", "ours", "no TLS was agreed on: the other end does not use it"),
    ],
)
async def test_certificates_have_to_fit(
    tmp_path: Path, ends: dict[str, LinkTls | None], there: str, here: str, problem: str | None
) -> None:
    async with cluster(tmp_path, ends[there]) as found:
        await found.start("north", 1)
        said = await _refusal(found, ends[here])
        assert (said or "").endswith(problem or "")
        assert (said is None) == (problem is None)


def test_whoever_is_not_there_refuses_nothing() -> None:
    with socket.create_server((HOST, 0)) as gone:
        port = gone.getsockname()[1]
    owner = Owner("north", HOST, port, 1)
    assert refusal_of(ClusterTrust("shop", SECRET), "new", owner, 1, None) is None
