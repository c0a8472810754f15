"""Files that are served from memory: compressed once, and told apart by a tag.

A client that has a file already says so (`If-None-Match`) and is answered 304, without a body. One
that does not take gzip gets the file as it is. What does not become smaller is not compressed.
"""

import gzip
import hashlib
from collections.abc import Sequence
from typing import Final

from .requests import Request, Response

_LEVEL: Final = 9
_TAG_DIGITS: Final = 32


class StaticFile:
    """One file. `tag` is its weak ETag; every answer has the headers that are given."""

    def __init__(
        self,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        varies_by: bytes = b"Accept-Encoding",
    ) -> None:
        """Compress the file. `headers` say its type, and how long it may be kept.

        `varies_by` names the headers of requests that answers depend on.
        """
        self.body = body
        compressed = gzip.compress(body, _LEVEL, mtime=0)
        self.compressed = compressed if len(compressed) < len(body) else None
        digest = hashlib.sha256(body).hexdigest()[:_TAG_DIGITS]
        self.tag = b'W/"%b"' % digest.encode()
        self._headers = [*headers, (b"etag", self.tag), (b"vary", varies_by)]

    def answer(self, request: Request) -> Response:
        """Return the answer to a client that asks for the file."""
        if _names_tag(request.headers.get(b"if-none-match", b""), self.tag):
            return Response(304, headers=self._headers)
        if self.compressed is not None and takes_gzip(request.headers.get(b"accept-encoding", b"")):
            headers = [*self._headers, (b"content-encoding", b"gzip")]
            return Response(200, self.compressed, headers)
        return Response(200, self.body, self._headers)


def takes_gzip(accepted: bytes) -> bool:
    """Return whether a value of `Accept-Encoding` allows gzip; what is named beats `*`."""
    qualities: dict[bytes, bool] = {}
    for part in accepted.lower().split(b","):
        coding, _, parameters = part.partition(b";")
        qualities[coding.strip()] = not _is_refused(parameters)
    return qualities.get(b"gzip", qualities.get(b"*", False))


def _is_refused(parameters: bytes) -> bool:
    """Return whether the parameters of a coding say that it must not be used: `q=0`, `q=0.000`."""
    name, _, quality = parameters.strip().partition(b"=")
    return name.strip() == b"q" and not quality.strip().strip(b"0.")


def _names_tag(listed: bytes, tag: bytes) -> bool:
    """Return whether a value of `If-None-Match` has a tag; compared weakly (RFC 9110, 13.1.2)."""
    wanted = tag.removeprefix(b"W/")
    given = (one.strip() for one in listed.split(b","))
    return any(one == b"*" or one.removeprefix(b"W/") == wanted for one in given)
