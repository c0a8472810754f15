"""TLS under a link between nodes: both ends show a certificate that the cluster's authority signed.

It hides what crosses. Who is at the other end is decided within it, by the cluster's secret
(`shards/guard/`). What has no certificate of the authority does not get that far. The asking
end also checks that the certificate is for the host that it has connected to. No I/O but the
reading of the files.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from troth.shards.guard.guarded_end import Guard
from troth.shards.guard.handshake import NotTrusted
from troth.shards.mesh.frames import LinkDamaged

TLS_HANDSHAKE_LIMIT_BYTES: Final = 64 * 1024
"""What a stranger may send before TLS is agreed on: chains of certificates are shorter."""

_READ_BYTES: Final = 64 * 1024


class LinkTlsRefused(Exception):
    """The files for TLS between nodes cannot be used. `str()` is one line for the operator."""


@dataclass(frozen=True, slots=True)
class LinkTls:
    """What both kinds of ends need of TLS."""

    for_asking: ssl.SSLContext
    for_answering: ssl.SSLContext


def load_link_tls(certificate: Path, key: Path, authority: Path) -> LinkTls:
    """Read this node's certificate and key, and the authority that signed those of all nodes.

    Raises LinkTlsRefused.
    """
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    answering = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    answering.num_tickets = 0  # no connection is resumed
    answering.options |= ssl.OP_NO_RENEGOTIATION
    for context in (asking, answering):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        _load(certificate, lambda: context.load_cert_chain(certificate, key, _no_password))  # noqa: B023
        _load(authority, lambda: context.load_verify_locations(authority))  # noqa: B023
    assert asking.check_hostname, "as it is for clients"
    return LinkTls(asking, answering)


def check_own(certificate: Path, tls: LinkTls, host: str) -> None:
    """Check that a node's two kinds of ends agree, as if another node asked it at its host.

    Raises LinkTlsRefused if they do not: other nodes would refuse it as well.
    """
    to_asking, to_answering = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = tls.for_asking.wrap_bio(to_asking, to_answering, server_hostname=host)
    answering = tls.for_answering.wrap_bio(to_answering, to_asking, server_side=True)
    for end in (asking, answering, asking, answering):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            raise LinkTlsRefused(
                f"{certificate}: other nodes would refuse it: {_reason_of(error)}"
            ) from error


def _no_password() -> str:
    raise LinkTlsRefused("the key for links between nodes is encrypted; it must not be")


def _load(file: Path, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        reason = error.reason or "not in PEM format"
        raise LinkTlsRefused(f"{file}: cannot be used for links of nodes ({reason})") from error
    except OSError as error:
        raise LinkTlsRefused(f"{file} or its key: cannot be read ({error.strerror})") from error


@final
class TlsEnd:
    """An end of a link within TLS: what it is given and gives is encrypted.

    `host` is what the other end's certificate must be for; None at the end that answers.
    """

    def __init__(self, inner: Guard, tls: LinkTls, host: str | None) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        context = tls.for_answering if host is None else tls.for_asking
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=host is None, server_hostname=host
        )
        self._is_agreed = False
        self._strange_bytes = 0
        if host is not None:
            self._agree()

    @property
    def is_known(self) -> bool:
        """Return whether the other end has proved that it belongs here."""
        return self._inner.is_known

    def received(self, data: bytes) -> bool:
        """Take what has come; return whether there is something for a turn.

        Raises LinkDamaged, and NotTrusted, which is one.
        """
        self._incoming.write(data)
        if not self._is_agreed:
            self._strange_bytes += len(data)
            if self._strange_bytes > TLS_HANDSHAKE_LIMIT_BYTES:
                raise NotTrusted("it says too much before TLS is agreed on")
            self._agree()
        has_work = False
        while self._is_agreed:
            try:
                content = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                raise LinkDamaged(f"TLS ended: {error.reason}") from error
            if not content:
                raise LinkDamaged("the other end has closed TLS")
            has_work |= self._inner.received(content)
        return has_work

    def _agree(self) -> None:
        """Go on with the handshake of TLS."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise NotTrusted(f"no TLS was agreed on: {_reason_of(error)}") from error
        self._is_agreed = True

    def take(self) -> bytes:
        """Return what is to be sent now; it counts as said."""
        if self._is_agreed:
            said = memoryview(self._inner.take())
            while said:
                said = said[self._tls.write(said) :]
        return self._outgoing.read()

    def look(self) -> bool:
        """Look at the time, some times a second; return whether the connection is still good."""
        return self._inner.look()

    def closed(self) -> None:
        """Note that the connection has ended."""
        self._inner.closed()

    def say_last(self) -> None:
        """Say that nothing further is carried out here."""
        self._inner.say_last()


def _reason_of(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or "the certificate is not good"
    if error.reason in (None, "WRONG_VERSION_NUMBER"):
        return "the other end does not use it"
    return str(error.reason)
