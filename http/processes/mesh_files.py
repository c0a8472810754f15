"""The files that links between nodes need: the cluster's secret, and those of TLS if it is used.

A process reads them when it starts, so `troth restart` makes a node use what has been put in their
place.
"""

from troth.http.links.cluster_secret import ClusterSecretRefused, read_cluster_secret
from troth.http.links.tls_end import (
    LinkTls,
    LinkTlsRefused,
    check_own,
    load_link_tls,
)
from troth.http.settings.settings import Settings


class MeshFilesRefused(Exception):
    """What links to other nodes need cannot be used. `str()` is one line for the operator."""


def read_mesh_files(settings: Settings) -> tuple[bytes, LinkTls | None]:
    """Read the secret, and what TLS needs. Raises MeshFilesRefused."""
    assert settings.cluster_secret_file is not None, "checked with the settings"
    certificate, key, authority = (
        settings.mesh_tls_cert,
        settings.mesh_tls_key,
        settings.mesh_tls_ca,
    )
    try:
        secret = read_cluster_secret(settings.cluster_secret_file)
        if certificate is None or key is None or authority is None:
            return secret, None
        tls = load_link_tls(certificate, key, authority)
        assert settings.mesh_listen is not None, "checked with the settings"
        check_own(certificate, tls, settings.mesh_listen.host)
        return secret, tls
    except (ClusterSecretRefused, LinkTlsRefused) as error:
        raise MeshFilesRefused(f"Cannot serve: {error}.") from error
