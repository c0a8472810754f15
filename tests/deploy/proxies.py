"""Real proxies on free ports, with the samples of `deploy/proxies/` as their configuration.

What a sample says is used as it is; only addresses, ports and certificates are replaced, and each
must be there to be replaced.
"""

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme

from tests.helpers.repository import ROOT
from tests.helpers.tools import tool

SAMPLES: Final = ROOT / "deploy" / "proxies"
HOST: Final = "troth.example"
PREFIX_HOST: Final = "ops.example"
TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Certificates:
    """Files of a certificate for both hosts, and what trusts it."""

    chain: Path
    key: Path
    both: Path
    trust: ssl.SSLContext


def make_certificates(directory: Path) -> Certificates:
    """Make a certificate for both hosts, signed by an authority of the tests' own."""
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, PREFIX_HOST)
    chain, key, both = (directory / name for name in ("chain.pem", "key.pem", "both.pem"))
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    issued.private_key_and_cert_chain_pem.write_to_path(str(both))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return Certificates(chain, key, both, trust)


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    """Replace texts, each of which must be there."""
    for old, new in replacements.items():
        assert old in text, f"the sample no longer has {old!r}"
        text = text.replace(old, new)
    return text


def nginx(directory: Path, port: int, upstream: str, certificates: Certificates) -> list[str]:
    """Write the configuration for nginx; return its command."""
    tls = {
        "/etc/ssl/troth/fullchain.pem": str(certificates.chain),
        "/etc/ssl/troth/key.pem": str(certificates.key),
    }
    sample = replaced(
        (SAMPLES / "nginx.conf").read_text(),
        {
            **tls,
            "listen 443 ": f"listen 127.0.0.1:{port} ",
            "listen [::]:443 ": f"listen [::1]:{port} ",
            "127.0.0.1:8001": upstream,
        },
    )
    (directory / "troth.conf").write_text(sample)
    (directory / "nginx.conf").write_text(
        f"""
        daemon off;
        {"user root;" if os.geteuid() == 0 else ""}
        worker_processes 1;
        pid {directory}/nginx.pid;
        error_log {directory}/error.log;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            client_body_temp_path {directory}/bodies;
            proxy_temp_path {directory}/proxied;
            fastcgi_temp_path {directory}/f;
            uwsgi_temp_path {directory}/u;
            scgi_temp_path {directory}/s;
            include {directory}/troth.conf;
            server {{
                listen 127.0.0.1:{port} ssl http2;
                server_name {PREFIX_HOST};
                ssl_certificate {certificates.chain};
                ssl_certificate_key {certificates.key};
                include {SAMPLES}/nginx-prefix.conf;
            }}
        }}
        """
    )
    return [tool("nginx", "nginx-light"), "-c", str(directory / "nginx.conf"), "-p", str(directory)]


def haproxy(directory: Path, port: int, upstream: str, certificates: Certificates) -> list[str]:
    """Write the configuration for HAProxy; return its command."""
    sample = replaced(
        (SAMPLES / "haproxy.cfg").read_text(),
        {
            "bind :443 ": f"bind 127.0.0.1:{port} ",
            "/etc/ssl/troth/both.pem": str(certificates.both),
            "127.0.0.1:8001": upstream,
            "maxconn 20000": "maxconn 200",
        },
    )
    path = directory / "haproxy.cfg"
    path.write_text(sample)
    return [tool("haproxy", "haproxy"), "-W", "-db", "-f", str(path)]


def caddy(directory: Path, port: int, upstream: str, certificates: Certificates) -> list[str]:
    """Write the configuration for Caddy; return its command."""
    tls = f"\ttls {certificates.chain} {certificates.key}\n"
    sample = replaced(
        (SAMPLES / "Caddyfile").read_text(),
        {
            f"{HOST} {{\n": f"{HOST} {{\n\tbind 127.0.0.1\n{tls}",
            f"{PREFIX_HOST} {{\n": f"{PREFIX_HOST} {{\n\tbind 127.0.0.1\n{tls}",
            "127.0.0.1:8001": upstream,
        },
    )
    options = (
        f"{{\n\tadmin off\n\thttps_port {port}\n\tauto_https disable_redirects\n"
        f"\tstorage file_system {directory}/caddy\n}}\n"
    )
    path = directory / "Caddyfile"
    path.write_text(options + sample)
    return [tool("caddy", "caddy"), "run", "--adapter", "caddyfile", "--config", str(path)]


Preparation = Callable[[Path, int, str, Certificates], list[str]]
PROXIES: Final[Mapping[str, Preparation]] = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy}


class ProxyConnection(http.client.HTTPSConnection):
    """A TLS connection to a proxy on this machine, by the name of one of its hosts."""

    def __init__(self, port: int, trust: ssl.SSLContext, host: str = HOST) -> None:
        super().__init__(host, timeout=TIMEOUT_S, context=trust)
        self._place = ("127.0.0.1", port)
        self._trust = trust

    def connect(self) -> None:
        """Connect to this machine, whatever the name resolves to."""
        plain = socket.create_connection(self._place, TIMEOUT_S)
        self.sock = self._trust.wrap_socket(plain, server_hostname=self.host)


@dataclass(frozen=True)
class Proxy:
    """One proxy that runs."""

    port: int
    trust: ssl.SSLContext

    def open(self, host: str = HOST) -> ProxyConnection:
        """Return a connection that is not open yet."""
        return ProxyConnection(self.port, self.trust, host)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        host: str = HOST,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request on a connection of its own: status, headers in lower case, body."""
        with contextlib.closing(self.open(host)) as connection:
            given = {"Content-Type": "application/json", **(headers or {})}
            connection.request(method, path, body, given if body else headers or {})
            answer = connection.getresponse()
            read = answer.read()
            return answer.status, {n.lower(): text for n, text in answer.getheaders()}, read


@contextlib.contextmanager
def running(kind: str, directory: Path, upstream_port: int) -> Iterator[Proxy]:
    """Run a proxy in front of a port of this machine."""
    directory.mkdir(parents=True)
    certificates = make_certificates(directory)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = PROXIES[kind](directory, port, f"127.0.0.1:{upstream_port}", certificates)
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory
        ) as process,
    ):
        try:
            _wait_until_open(process, port, directory)
            yield Proxy(port, certificates.trust)
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT_S / 6)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_open(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    logs = [path.read_text(errors="replace") for path in directory.glob("*log")]
    raise AssertionError(f"the proxy does not start: {' '.join(logs)}")
