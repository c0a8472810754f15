"""The files that links between nodes need: the cluster's secret, and those of TLS if it is used."""

from troth.http.links.cluster_secret import read_cluster_secret
from troth.http.links.tls_end import LinkTls, load_link_tls
from troth.http.settings.settings import Settings


def read_mesh_files(settings: Settings) -> tuple[bytes, LinkTls | None]:
    """Read the secret, and what TLS needs. Raises ClusterSecretRefused or LinkTlsRefused."""
    assert settings.cluster_secret_file is not None, "checked with the settings"
    secret = read_cluster_secret(settings.cluster_secret_file)
    certificate, key, authority = (
        settings.mesh_tls_cert,
        settings.mesh_tls_key,
        settings.mesh_tls_ca,
    )
    if certificate is None or key is None or authority is None:
        return secret, None
    return secret, load_link_tls(certificate, key, authority)
