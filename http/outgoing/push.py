"""The sender of HTTP pushes: one POST, within one deadline, to a receiver that may be hostile.

What this module promises, whatever the receiver does:

- `send` ends within `timeout_ms`, names and certificates and redirects included.
- Success is a 2xx status and nothing else. The answer's body means nothing: at most a little of it
  is read, so that the connection can be used again; an endless one is cut off.
- At most 5 redirects, only to the same host and port (or from port 80 to 443 with https): a
  receiver cannot turn the server against others.
- Only addresses of the open internet are called, never the server's own ports (`guards.py`). The
  URLs that the operator has named may be elsewhere, and so may all while `is_free` says so. Only
  with a named URL's user is the message signed: what clients write into a URL is not sent as a
  credential.

`connections.py` says what is true of every connection.
"""

import ssl
from collections.abc import Callable, Collection, Mapping
from typing import Final, Self, final

import httpx
import trio

from troth import __version__
from troth.core.grammar.addresses import PushAddress
from troth.shards.delivery.shipments import PushFailed

from .connections import (
    NETWORK_ERRORS,
    AddressRefused,
    OutgoingRoom,
    PoolTransport,
    exchange,
    is_same_place,
    make_transport,
    reason,
)
from .guards import OwnPorts

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
        named_urls: Collection[str] = (),
        is_free: Callable[[], bool] = lambda: False,
        own_ports: OwnPorts | None = None,
        room: OutgoingRoom | None = None,
    ) -> None:
        """Open nothing yet. Sets trio's name resolver for this run (see above)."""
        self._timeout_seconds = timeout_ms / 1000
        self._named_urls = frozenset(named_urls)
        self._is_free = is_free
        own_ports = own_ports or OwnPorts()
        # Two pools: a connection that one push may use must not be there for another.
        self._free = make_transport(ssl_context, own_ports.may_be_called, room)
        self._guarded = make_transport(ssl_context, own_ports.public_only, room)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._free.aclose()
        await self._guarded.aclose()

    async def send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:
        """POST the body; return when a 2xx status has come. Raises PushFailed.

        `headers` are added to the address's own and win over them.
        """
        try:
            with trio.fail_after(self._timeout_seconds):
                await self._send(address, body, headers)
        except trio.TooSlowError:
            raise PushFailed(f"no answer within {self._timeout_seconds:g} s") from None
        except AddressRefused:
            raise PushFailed(
                "the receiver is not on the open internet, or is this server itself (settings "
                "push_private_networks and targets allow more)"
            ) from None
        except NETWORK_ERRORS as error:
            raise PushFailed(reason(error)) from error

    async def _send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:
        is_named = address.url in self._named_urls
        transport = self._free if is_named or self._is_free() else self._guarded
        request = httpx.Request(
            "POST",
            address.url,
            headers=_request_headers(address, headers, is_signed=is_named),
            content=body,
        )
        for _ in range(_REDIRECTS_LIMIT_COUNT + 1):
            response = await self._answer(transport, request)
            if response.is_success:
                return
            if response.status_code not in _CHANGED_TO_GET | _SENT_AGAIN:
                raise PushFailed(f"status {response.status_code}")
            request = _redirected(request, response, body)
        raise PushFailed(f"more than {_REDIRECTS_LIMIT_COUNT} redirects")

    async def _answer(self, transport: PoolTransport, request: httpx.Request) -> httpx.Response:
        """Send one request and return its answer, read no further than is useful."""
        response = await exchange(transport, request)
        try:
            await _read_a_little(response)
        finally:
            await response.aclose()
        return response


def _request_headers(
    address: PushAddress, headers: Mapping[str, str], *, is_signed: bool
) -> httpx.Headers:
    result = httpx.Headers({"Accept": "*/*", "User-Agent": f"troth/{__version__}"})
    result.update(dict(address.headers))
    # As they came: text beyond ASCII must not keep a message from being sent.
    result.update({name.encode(): text.encode() for name, text in headers.items()})
    result["Content-Type"] = "application/json"
    result["Accept-Encoding"] = "identity"
    url = httpx.URL(address.url)
    if is_signed and url.userinfo and "Authorization" not in result:
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
                    # Not `break`: canceling ends the generators below this one in order.
                    scope.cancel()
        except NETWORK_ERRORS:
            return  # the status has come, and that is all that counts
