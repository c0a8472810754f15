"""The sender of HTTP pushes: one POST, within one deadline, to a receiver that may be hostile.

What this module promises, whatever the receiver does:

- `send` ends within `timeout_ms`, names and certificates and redirects included.
- Success is a 2xx status and nothing else. The answer's body means nothing: at most a little of it
  is read, so that the connection can be used again; an endless one is cut off.
- At most 5 redirects, only to the same host and port (or from port 80 to 443 with https): a
  receiver cannot turn the server against others.

What is true of every connection, `connections.py` says.
"""

import ssl
from collections.abc import Mapping
from typing import Final, Self, final

import httpx
import trio

from troth import __version__
from troth.core.grammar.addresses import PushAddress
from troth.shards.delivery.shipments import PushFailed

from .connections import NETWORK_ERRORS, exchange, is_same_place, make_transport, reason

__all__ = ["PushFailed", "PushSender"]

_REDIRECTS_LIMIT_COUNT: Final = 5
_BODY_READ_LIMIT_BYTES: Final = 64 * 1024
_BODY_READ_SECONDS: Final = 0.25

_CHANGED_TO_GET: Final = frozenset({301, 302, 303})
_SENT_AGAIN: Final = frozenset({307, 308})


@final
class PushSender:
    """Sends messages by HTTP; the `PushTransport` of delivery. Make it inside `trio.run`.

    Use it in a `with` block, at whose end its idle connections are closed.
    """

    def __init__(
        self,
        *,
        timeout_ms: int,
        ssl_context: ssl.SSLContext | None = None,
        connections_limit_count: int | None = None,
    ) -> None:
        """Open nothing yet. Sets trio's name resolver for this run (see above)."""
        self._timeout_seconds = timeout_ms / 1000
        self._transport = make_transport(
            ssl_context, connections_limit_count=connections_limit_count
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:
        """POST the body; return when a 2xx status has come. Raises PushFailed.

        `headers` are added to the address's own and win over them.
        """
        try:
            with trio.fail_after(self._timeout_seconds):
                await self._send(address, body, headers)
        except trio.TooSlowError:
            raise PushFailed(f"no answer within {self._timeout_seconds:g} s") from None
        except NETWORK_ERRORS as error:
            raise PushFailed(reason(error)) from error

    async def _send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:
        request = httpx.Request(
            "POST", address.url, headers=_request_headers(address, headers), content=body
        )
        for _ in range(_REDIRECTS_LIMIT_COUNT + 1):
            response = await self._answer(request)
            if response.is_success:
                return
            if response.status_code not in _CHANGED_TO_GET | _SENT_AGAIN:
                raise PushFailed(f"status {response.status_code}")
            request = _redirected(request, response, body)
        raise PushFailed(f"more than {_REDIRECTS_LIMIT_COUNT} redirects")

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its answer, read no further than is useful."""
        response = await exchange(self._transport, request)
        try:
            await _read_a_little(response)
        finally:
            await response.aclose()
        return response


def _request_headers(address: PushAddress, headers: Mapping[str, str]) -> httpx.Headers:
    result = httpx.Headers({"Accept": "*/*", "User-Agent": f"troth/{__version__}"})
    result.update(dict(address.headers))
    result.update(dict(headers))
    result["Content-Type"] = "application/json"
    result["Accept-Encoding"] = "identity"
    url = httpx.URL(address.url)
    if url.userinfo and "Authorization" not in result:
        authentication = httpx.BasicAuth(url.username, url.password)
        signed = next(authentication.auth_flow(httpx.Request("POST", url)))
        result["Authorization"] = signed.headers["Authorization"]
    return result


def _redirected(request: httpx.Request, response: httpx.Response, body: bytes) -> httpx.Request:
    location = response.headers.get("Location", "")
    try:
        url = request.url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise PushFailed("redirected to an invalid URL") from None
    if not location or not is_same_place(request.url, url):
        raise PushFailed("redirected to another host or port")
    headers = request.headers.copy()
    for name in ("Host", "Content-Length", "Transfer-Encoding"):
        headers.pop(name, None)
    if response.status_code in _CHANGED_TO_GET:
        headers.pop("Content-Type", None)
        return httpx.Request("GET", url, headers=headers)
    return httpx.Request("POST", url, headers=headers, content=body)


async def _read_a_little(response: httpx.Response) -> None:
    """Read the body if it is short, since then the connection can be used again."""
    read_bytes = 0
    with trio.move_on_after(_BODY_READ_SECONDS) as scope:
        try:
            async for chunk in response.aiter_raw():
                read_bytes += len(chunk)
                if read_bytes > _BODY_READ_LIMIT_BYTES:
                    # Not `break`: cancelling ends the generators below this one in order.
                    scope.cancel()
        except NETWORK_ERRORS:
            return  # the status has come, and that is all that counts
