"""From a request to its answer: the one path that every way in shares, free of any framework.

Order of checks: path and method, host, origin, credentials, readiness, headers, body; then the
handler.
Every refusal becomes an answer here; every other exception becomes a 500 and a line in the log.
"""

import contextlib
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import structlog
import trio
from structlog.contextvars import bound_contextvars

from troth.core import limits as core_limits
from troth.core.codes import Code
from troth.http.tracing.requests import trace_fields
from troth.http.wire import decoding
from troth.http.wire.bodies import BodyDecoder
from troth.http.wire.decoding import NO_HEADERS, CallHeaders
from troth.http.wire.errors import ApiError, error_response
from troth.http.wire.requests import Request, Response
from troth.persistence.memory_reserve import RESERVE

from .authentication import authenticate, is_known, refuse_stranger, unauthorized
from .context import VERSION_HEADER_VALUE, Api, Readiness
from .cors import Cors
from .hosts import Hosts
from .router import Match, Router
from .rows import Call, Endpoint, Handler
from .session_cookies import UI_HEADER
from .streams import limited

_REQUEST_ID_LIMIT_BYTES = 256
_READY: Final = Readiness.READY  # see PENDING in model.py
_READING_METHODS: Final = frozenset({"GET", "HEAD"})
_JUDGED: Final = frozenset({b"origin", b"referer", b"request-id", b"sec-fetch-site"})
"""Headers that count for every endpoint, besides Host and the credentials."""
_NO_STORE: Final = (b"cache-control", b"no-store")
_CHALLENGE_OF_SESSIONS: Final = (b"www-authenticate", b'Session realm="Troth"')
"""For scripts of a page: with another challenge browsers ask for a password themselves."""
START_WAIT_S = 30.0
"""How long a request that waits does so for a server that starts."""
START_WAIT_STEP_S = 0.02
_log = structlog.get_logger("troth.http.dispatch")


class Dispatcher:
    """Answers requests of one port with the endpoints of its table.

    `is_plain` says that `finish` adds nothing but the headers that every answer has.
    """

    def __init__(self, api: Api, endpoints: tuple[Endpoint, ...]) -> None:
        """Compile the table."""
        self.api = api
        self.router = Router(endpoints)
        decoders = {row.name: BodyDecoder(row.body, api.limits) for row in endpoints if row.body}
        self._bodies = {name: one for name, one in decoders.items() if not one.is_about_many}
        self._sliced_bodies = {name: one for name, one in decoders.items() if one.is_about_many}
        self._hosts = Hosts(api.settings)
        self._familiar_hosts = self._hosts.familiar
        self._cors = Cors(api.settings.cors_allow_origin, self._hosts)
        self._headers_to_judge = _JUDGED.union(*(row.reads_raw for row in endpoints))
        self.is_plain = self._cors.is_off

    async def answer(self, request: Request) -> Response:
        """Answer a request. Raises nothing but cancellation, and MemoryError.

        MemoryError is raised where the request may have been carried out; then no answer would be
        true, and the connection is to end: its client tries again.
        """
        with bound_contextvars(request_id=request.id, peer=request.peer):
            try:
                return await self._answer(request)
            except ApiError as error:
                return self.refuse(request, error)
            except MemoryError:
                RESERVE.give_away()
                if request.method not in _READING_METHODS:
                    raise  # it may have been carried out
                return self.refuse(request, no_memory())
            except Exception:
                _log.exception(
                    "a request failed", endpoint=request.endpoint, **trace_fields(request)
                )
                return self.refuse(request, ApiError(Code.INTERNAL))

    def refuse(self, request: Request, error: ApiError) -> Response:
        """Make the answer to a refused request; a browser may read it if its origin is allowed."""
        request.refusal = error.code
        self.api.metrics.requests.refused(error.code)
        refused = request.refused or self._refused(request)
        if refused is not None:
            response = refused(request, error)
        else:
            response = error_response(error, self.api.url, request.id)
        if error.code.status == 401 and _is_of_script(request):
            response.headers = [*filter(_is_no_challenge, response.headers), _CHALLENGE_OF_SESSIONS]
        if request.principal.session_id:
            response.headers.append(_NO_STORE)
        if error.code is not Code.ORIGIN_FORBIDDEN:
            # To an origin that may not read the answer, no header says that it may.
            with contextlib.suppress(ApiError):
                response.headers += self._cors.headers(request.headers)
        return _marked(request, response)

    def _refused(self, request: Request) -> Callable[[Request, ApiError], Response] | None:
        """Return what renders refusals of what a request is for, if it does that in its own way."""
        try:
            return self.router.match(request.method, request.raw_path).endpoint.refused
        except ApiError:
            return None

    async def _answer(self, request: Request) -> Response:
        try:
            match = self.router.match(request.method, request.raw_path)
        except ApiError as error:
            self._refuse_stranger(request, None)
            preflight = self._cors.preflight(request.method, request.headers)
            if preflight is not None:
                return _marked(request, preflight)
            if request.method == "OPTIONS" and request.raw_path == b"*":
                allow = (b"allow", self.router.allow)
                return _marked(request, Response(204, headers=[allow]))
            if error.code is Code.PATH_NOT_FOUND:
                place = self.router.without_slash(request.method, request.raw_path)
                if place is not None:
                    query = b"?" + request.query if request.query else b""
                    return _marked(request, Response(308, headers=[(b"location", place + query)]))
            if request.method == "OPTIONS" and error.code is Code.METHOD_NOT_ALLOWED:
                return _marked(request, Response(204, headers=list(error.headers)))
            raise
        if not request.raw_path.startswith(b"/"):
            self._refuse_stranger(request, match.endpoint)
        return await self.carry_out(request, match)

    def _refuse_stranger(self, request: Request, endpoint: Endpoint | None) -> None:
        """Raise ApiError (421) if that is for what could be a stranger's name for this machine."""
        if self.api.credentials.is_open and not (endpoint is not None and endpoint.any_host):
            self._hosts.refuse_stranger(request)

    def judge_head(self, request: Request) -> Endpoint | None:
        """Refuse what its head alone forbids, before its body is read. Raises ApiError.

        What passes is judged again, as a whole, when the body is there. Return the endpoint; None
        if there is none, and no body is wanted.
        """
        try:
            match = self.router.match(request.method, request.raw_path)
        except ApiError:
            return None
        _note_endpoint(request, match.endpoint)
        self.admit(request, match, is_whole=False)
        _refuse_encoded(request)
        endpoint = match.endpoint
        if endpoint.auth_in_body:
            if b"authorization" in request.headers:
                refuse_stranger(self.api, request)
            elif self.is_stranger(request) and not _may_be_short(request):
                raise too_long_for_a_stranger()
        return endpoint

    def is_stranger(self, request: Request) -> bool:
        """Return whether a request needs credentials and its head has none."""
        credentials = self.api.credentials
        return not (credentials.is_open or is_known(credentials, request.headers))

    async def _started(self) -> None:
        """Wait until the server serves, `START_WAIT_S` at most: a refusal would cost more.

        Some clients take one for the failure of what they asked for, others never ask again.
        """
        with trio.move_on_after(START_WAIT_S):
            while self.api.readiness is Readiness.STARTING:  # noqa: ASYNC110  an attribute, once
                await trio.sleep(START_WAIT_STEP_S)

    async def carry_out(self, request: Request, match: Match, call: Call | None = None) -> Response:
        """Answer a request whose endpoint is known. Raises ApiError, for `refuse`.

        `call` is what `admit` has returned, if that was asked already.
        """
        return self.finish(request, await self.handle(request, match, call))

    async def handle(self, request: Request, match: Match, call: Call | None = None) -> Response:
        """Return what a request's handler answers, which `finish` is still to add to.

        Otherwise as `carry_out`.
        """
        if call is None:
            _note_endpoint(request, match.endpoint)
            if match.endpoint.awaits_start and self.api.readiness is Readiness.STARTING:
                await self._started()
            call = self.admit(request, match)
            if len(request.body) > core_limits.LONG_BODY_BYTES:
                await trio.lowlevel.checkpoint()
        sliced = self._sliced_bodies.get(match.endpoint.name)
        if sliced is not None:
            call.body = await _decoded_in_slices(sliced, request.body)
        handler = match.endpoint.handler
        if self.api.may_answer is not None and match.endpoint.sheltered:
            handler = partial(_answered_within_lease, handler)
        if not match.endpoint.answers_much:
            return await handler(self.api, call)
        # Many of these at a time would each make megabytes before the first is written.
        in_flight = self.api.in_flight
        with in_flight.hold() as hold:
            size_bytes = min(core_limits.LARGE_ANSWER_BYTES, in_flight.limit_bytes // 2)
            await in_flight.grown(hold, size_bytes)
            return await handler(self.api, call)

    def admit(self, request: Request, match: Match, *, is_whole: bool = True) -> Call:
        """Check and decode a request: what comes before its handler. Raises ApiError.

        The request knows its endpoint already, by `_note_endpoint` or by the lane.
        Unless it `is_whole`, its body is not looked at; and one about many things never is.
        """
        endpoint = match.endpoint
        api, is_plain = self.api, request.is_plain
        if not is_plain:
            self._judge_sender(request, endpoint)
        # Otherwise the principal stays what every request has at first: anonymous.
        if not (endpoint.public or (endpoint.is_open and api.credentials.is_open)):
            request.principal = authenticate(api, request, endpoint)
        if endpoint.sheltered and api.readiness is not _READY:
            api.refuse_unless_ready(may_be_stopping=endpoint.waits or api.is_draining)
        headers = NO_HEADERS
        if not (is_plain or endpoint.reads_raw.isdisjoint(request.headers)):
            headers = _call_headers(endpoint, request)
        body = None
        if endpoint.body is not None and is_whole:
            decoder = self._bodies.get(endpoint.name)
            try:
                body = None if decoder is None else decoder.decode(request.body)
            except MemoryError:
                RESERVE.give_away()
                raise no_memory() from None
        tracing = api.tracing
        if tracing is not None and is_whole and request.span is None:
            headers = tracing.begin(request, endpoint, headers, match.values, body)
        return Call(request, match.values, headers, body)

    def is_plain_head(self, headers: Mapping[bytes, bytes]) -> bool | None:
        """Return whether a request's headers need no look, but for credentials and its body.

        None if that is not certain yet: nothing has come for this host before.
        """
        if not self._headers_to_judge.isdisjoint(headers):
            return False
        return True if headers.get(b"host") in self._familiar_hosts else None

    def _judge_sender(self, request: Request, endpoint: Endpoint) -> None:
        """Raise ApiError for a stranger's name of this machine, or a page that may not ask this."""
        if request.headers.get(b"host") not in self._familiar_hosts:
            self._refuse_stranger(request, endpoint)
        if b"origin" in request.headers:
            self._cors.refuse_foreign(request.method, request.headers)
        if endpoint.changes_by_link:
            self._cors.refuse_cross_site(request.headers)

    def finish(self, request: Request, response: Response) -> Response:
        """Add to a handler's answer what comes after it: headers, and an end to its stream."""
        if response.stream is not None:
            response.stream = limited(response.stream, self.api.credentials, request.principal)
        if request.principal.session_id:
            response.headers = [*filter(_is_not_about_caches, response.headers), _NO_STORE]
        if not self.is_plain:
            response.headers += self._cors.headers(request.headers)
        return _marked(request, response)


def _note_endpoint(request: Request, endpoint: Endpoint) -> None:
    """Note what a request is for, as the lane does in making it."""
    request.endpoint, request.refused = endpoint.name, endpoint.refused


async def _answered_within_lease(handler: Handler, api: Api, call: Call) -> Response:
    """Return what a handler answers when the lease of the log runs. Raises ApiError.

    Shards wait for that by themselves; what else is in memory does not. What may have been done is
    answered as it is: instead of anything else there may be a refusal.
    """
    try:
        response = await handler(api, call)
    except ApiError as error:
        if error.code.status < 500:
            await api.until_answerable()
        raise
    if call.request.method in _READING_METHODS:
        await api.until_answerable()
    return response


async def _decoded_in_slices(decoder: BodyDecoder[Any], content: bytes) -> Any:
    """Decode a body about many things; others get their turn in between. Raises ApiError."""
    slices = decoder.decode_in_slices(content)
    try:
        while True:
            next(slices)
            await trio.lowlevel.checkpoint()
    except StopIteration as end:
        return end.value
    except MemoryError:
        RESERVE.give_away()
        raise no_memory() from None


def _is_of_script(request: Request) -> bool:
    """Return whether a script of a page sent a request, and not a person by an address."""
    mode = request.headers.get(b"sec-fetch-mode")
    return UI_HEADER in request.headers if mode is None else mode != b"navigate"


def _is_no_challenge(header: tuple[bytes, bytes]) -> bool:
    return header[0] != b"www-authenticate"


def _is_not_about_caches(header: tuple[bytes, bytes]) -> bool:
    return header[0] != b"cache-control"


def no_memory() -> ApiError:
    """Return the refusal of a request for lack of memory, before any of it was carried out."""
    return ApiError(
        Code.OVERLOADED, message="There is too little memory at the moment for this request."
    )


def too_long_for_a_stranger() -> ApiError:
    """Return the refusal of a body that is too long to be read without credentials."""
    return unauthorized("A body of this size needs credentials in `Authorization`.")


def _may_be_short(request: Request) -> bool:
    """Return whether a body may be read of a stranger; one in chunks, as far as it is short."""
    declared = request.headers.get(b"content-length")
    if declared is None:
        return b"transfer-encoding" in request.headers
    return declared.isdigit() and int(declared) <= core_limits.STRANGER_BODY_LIMIT_BYTES


def _refuse_encoded(request: Request) -> None:
    """Raise ApiError (415) for a body that is not sent as it is."""
    given = request.headers.get(b"content-encoding", b"identity")
    if request.repeated is not None:
        given = request.repeated.get(b"content-encoding", given)
    if given.lower() not in (b"identity", b""):
        raise ApiError(Code.ENCODING_UNSUPPORTED)


def _marked(request: Request, response: Response) -> Response:
    """Add the headers that every answer has."""
    response.headers.append((b"request-id", request.id.encode()))
    response.headers.append((b"resonate-version", VERSION_HEADER_VALUE))
    return response


def request_id(given: bytes | None) -> str:
    """Return the id that a request came with, else a new one.

    One that is too long or cannot be shown is replaced: nothing hangs on it but the log.
    """
    if given and len(given) <= _REQUEST_ID_LIMIT_BYTES:
        text = decoding.header_text(given)
        if text.isprintable():
            return text
    return str(uuid.uuid4())


def _call_headers(endpoint: Endpoint, request: Request) -> CallHeaders:
    reads, headers = endpoint.reads_raw, request.headers
    return CallHeaders(
        decoding.text_header(headers, "Idempotency-Key", core_limits.IDEMPOTENCY_KEY_LIMIT_BYTES)
        if b"idempotency-key" in reads
        else None,
        b"strict" in reads and decoding.strict_header(headers),
        decoding.fence_headers(headers) if b"task-id" in reads else None,
        decoding.trace_headers(headers) if b"traceparent" in reads else None,
    )
