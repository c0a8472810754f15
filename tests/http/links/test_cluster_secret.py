"""The cluster's secret is read only if no other user can read it and it cannot be guessed."""

from pathlib import Path

import pytest

from troth.http.links.cluster_secret import ClusterSecretRefused, read_cluster_secret

SECRET = b"0123456789abcdef" * 4


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_secret_is_read_without_the_line_break(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + end)
    file.chmod(0o600)
    assert read_cluster_secret(file) == SECRET
    file.chmod(0o400)
    assert read_cluster_secret(file) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_what_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    file.chmod(mode)
    with pytest.raises(ClusterSecretRefused, match=f"mode {mode:o}.*chmod 600"):
        read_cluster_secret(file)


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 31 + b"\n", b"x" * 5_000])
def test_a_secret_of_the_wrong_length_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ClusterSecretRefused, match=r"has 32 to 4096 bytes.*openssl rand"):
        read_cluster_secret(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterSecretRefused, match="nowhere: cannot be read"):
        read_cluster_secret(tmp_path / "nowhere")
    with pytest.raises(ClusterSecretRefused, match="cannot be read"):
        read_cluster_secret(tmp_path)
