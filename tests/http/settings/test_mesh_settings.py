"""Settings of nodes that share the groups of a cluster."""

import pytest

from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.settings.sources import SettingsError, load

_CLUSTER = {"log": "postgresql://h/d", "cluster": "c"}
_MESH = {**_CLUSTER, "mesh_listen": "one.example:8003", "cluster_secret_file": "secret"}
_TLS = {"mesh_tls_cert": "a", "mesh_tls_key": "b", "mesh_tls_ca": "c"}


def _loaded(flags: dict[str, str]) -> Settings:
    return load(None, {}, flags)


def test_what_belongs_together_is_taken() -> None:
    settings = _loaded({**_MESH, **_TLS})
    assert settings.mesh_listen == ListenAddress("one.example", 8003)
    assert str(settings.cluster_secret_file) == "secret"
    assert _loaded({**_CLUSTER, "mesh_listen": "none"}).mesh_listen is None
    assert _loaded({**_MESH, "mesh_listen": "[2001:db8::1]:1"}).mesh_listen is not None


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"mesh_listen": "h:1", "cluster_secret_file": "s"}, "unless cluster is given"),
        ({**_CLUSTER, "mesh_listen": "h:1"}, "unless cluster_secret_file is given"),
        ({**_CLUSTER, "cluster_secret_file": "s"}, "unless mesh_listen is given"),
        ({**_MESH, "mesh_tls_cert": "a"}, "unless mesh_tls_key is given"),
        ({**_MESH, "mesh_tls_key": "a", "mesh_tls_ca": "c"}, "unless mesh_tls_cert is given"),
        ({**_CLUSTER, **_TLS}, "unless mesh_listen is given"),
        ({**_MESH, "mesh_listen": "0.0.0.0:8003"}, "by which other nodes reach this one"),
        ({**_MESH, "mesh_listen": "[::]:8003"}, "by which other nodes reach this one"),
        ({**_MESH, "cluster_secret_file": "\0"}, "a path to a file"),
    ],
)
def test_what_says_nothing_without_another_is_refused(flags: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        _loaded(flags)
