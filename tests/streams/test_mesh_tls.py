"""Nodes that share groups and have certificates: who has none of the authority does not start."""

import re
import time
from pathlib import Path
from typing import Final

import pytest
import trustme

from tests.helpers.postgres import PostgresServer
from tests.helpers.server import ServerDiedError, ServerProcess, free_ports
from tests.helpers.shared_nodes import HOST, node_arguments, shared_nodes
from tests.http.links.certificates import Files, make_files
from tests.http.processes.clients import FAR_MS, ids_by_group
from troth.cli.supervising.restart import asked

pytestmark = pytest.mark.slow

PATIENCE_S: Final = 60.0
STEP_S: Final = 0.1


def _options(files: Files) -> tuple[str, ...]:
    return (
        *("--mesh-tls-cert", str(files.certificate), "--mesh-tls-key", str(files.key)),
        *("--mesh-tls-ca", str(files.authority)),
    )


def _sign(files: Files, authority: trustme.CA, host: str = HOST) -> None:
    """Put a new certificate where a node has its own."""
    signed = authority.issue_cert(host)
    signed.cert_chain_pems[0].write_to_path(files.certificate)
    signed.private_key_pem.write_to_path(files.key)


def test_two_nodes_with_certificates_let_in_no_third_without(
    tmp_path: Path, postgres_server_of_session: PostgresServer
) -> None:
    postgres_server_of_session.query("CREATE DATABASE meshtls")
    url = postgres_server_of_session.url.replace("///postgres", "///meshtls")
    ours, theirs = trustme.CA(), trustme.CA()
    files = {name: make_files(tmp_path / f"tls-{name}", ours, ours, HOST) for name in "ab"}
    stranger = make_files(tmp_path / "tls-c", theirs, ours, HOST)
    with shared_nodes(tmp_path, url, "ab", 2, more=lambda name: _options(files[name])) as two:
        _all_groups_are_reached_through_both(two.nodes)

        arguments = node_arguments(url, tmp_path / "cluster.secret", "c", free_ports(1)[0])
        refusals = {
            r"node\.pem: other nodes would refuse it: ": _options(stranger),
            r"the server [ab] does not let this one in: it waits for TLS\.": (),
        }
        for number, (expected, options) in enumerate(refusals.items()):
            third = ServerProcess(tmp_path / f"c{number}", *arguments, *options)
            with pytest.raises(ServerDiedError) as raised:
                third.start()
            said = [line for line in str(raised.value).splitlines() if "Cannot serve" in line]
            assert len(said) == 1
            assert re.search(expected, said[0])
            assert "Traceback" not in str(raised.value)
            assert not third.data.exists(), "nothing was made"

        node = two.nodes["a"]
        before, owners = node.serving_ids(), two.owners()
        _sign(files["a"], theirs)
        answers = list(asked(node.data, {"ask": "restart"}))
        assert "failed" in answers[-1]
        assert not [one for one in answers if "restarted" in one], "what serves goes on"
        assert "other nodes would refuse it" in node.log()
        # On a busy machine the other node may have had reason to take a group over.
        assert node.serving_ids() == before or two.owners() != owners
        _sign(files["a"], ours)
        assert list(asked(node.data, {"ask": "restart"}))[-1] == {"done": True}
        two.until_spread("a", "b")
        two.until_ready("a", "b")
        _all_groups_are_reached_through_both(two.nodes)


def _all_groups_are_reached_through_both(nodes: dict[str, ServerProcess]) -> None:
    """A node may be ready before its last link is there; it answers 503 then, and did nothing."""
    ends_s = time.monotonic() + PATIENCE_S
    for name, node in nodes.items():
        for ids in ids_by_group(f"of-{name}", 2):
            for identifier in ids:
                body = {"id": identifier, "timeout": FAR_MS}
                while (status := node.request("POST", "/promises", body)[0]) == 503:
                    assert time.monotonic() < ends_s, node.log()
                    time.sleep(STEP_S)
                assert status == 201
