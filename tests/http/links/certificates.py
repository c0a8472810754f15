"""Certificates of the nodes of a cluster, for tests."""

from dataclasses import dataclass
from pathlib import Path

import trustme

from troth.http.links.tls_end import LinkTls, load_link_tls


@dataclass(frozen=True)
class Files:
    """Files of a node: what the authority has signed, and what trusts it."""

    certificate: Path
    key: Path
    authority: Path

    def load(self) -> LinkTls:
        """Read them."""
        return load_link_tls(self.certificate, self.key, self.authority)


def make_files(directory: Path, signer: trustme.CA, trusted: trustme.CA, host: str) -> Files:
    """Make a node's files."""
    directory.mkdir()
    files = Files(directory / "node.pem", directory / "node.key", directory / "ca.pem")
    signed = signer.issue_cert(host)
    signed.cert_chain_pems[0].write_to_path(files.certificate)
    signed.private_key_pem.write_to_path(files.key)
    trusted.cert_pem.write_to_path(files.authority)
    return files
