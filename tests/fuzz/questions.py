"""What browsers and scripts ask for: filters of lists and bulk jobs, the feed, cookies."""

# ruff: noqa: PT017 — whether an input is refused is up to the input.

import re
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec

from troth.core.bulk import BulkFilter, BulkSubject
from troth.core.limits import TAGS_LIMIT_COUNT
from troth.http.api.context import Api
from troth.http.api.rows import Call
from troth.http.api.session_cookies import cookie_of
from troth.http.bulk.filters import read_filter
from troth.http.questions.asked import AskedQuery, cursor
from troth.http.questions.list_endpoints import LocksPlace, TasksPlace, TimersPlace
from troth.http.web.feed_endpoints import events
from troth.http.web.feed_stream import WATCHED_LIMIT_COUNT, Topic
from troth.http.wire import decoding
from troth.http.wire.cursors import sign_payload
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import ANONYMOUS
from troth.http.wire.requests import Request

from .running import Target


def _opened(_principal: object, topics: frozenset[str], watched: list[str]) -> None:
    assert topics <= set(Topic)
    assert topics or watched
    assert len(watched) <= WATCHED_LIMIT_COUNT


_SECRET: Final = b"secret"
_API: Final = cast(
    "Api",
    SimpleNamespace(
        limits=SimpleNamespace(tags_limit_count=TAGS_LIMIT_COUNT),
        shards=SimpleNamespace(cursor_secret=_SECRET),
        feed=SimpleNamespace(open=_opened),
    ),
)
_COOKIE: Final = cookie_of("http://127.0.0.1:8001", "/")


def check_filter(content: bytes) -> bool:
    """A query, as the filter of each kind of bulk job and as what a stream is to tell.

    Refused with 400 or 403, or a filter that comes back from the log as it was.
    """
    call = Call(Request("GET", b"/", content, {}, b"", cast("Any", None)), {})
    call.request.principal = ANONYMOUS
    accepted = False
    try:
        given = decoding.query_parameters(content)
        for subject in BulkSubject:
            accepted |= _is_filter(call, subject, given)
        stream = events(_API, call)
        try:
            stream.send(None)
        except StopIteration:
            accepted = True
    except ApiError as error:
        assert error.code.status in (400, 403)
    return accepted


def _is_filter(call: Call, subject: BulkSubject, given: dict[str, str]) -> bool:
    try:
        found = read_filter(_API, call, subject, given)
    except ApiError as error:
        assert error.code.status in (400, 403)
        assert error.problems or error.code.status == 403
        return False
    assert msgspec.json.decode(msgspec.json.encode(found), type=BulkFilter) == found
    return True


def check_place(content: bytes) -> bool:
    """A cursor of a list as it is, and as one that this server has signed in another version."""
    accepted = False
    for given in (content.decode(errors="surrogateescape"), sign_payload(content, _SECRET)):
        for form in (TasksPlace, LocksPlace, TimersPlace):
            accepted |= _is_place(given, form)
    return accepted


def _is_place(given: str, form: type[TasksPlace | LocksPlace | TimersPlace]) -> bool:
    try:
        place = AskedQuery({"cursor": given}).place(form, _SECRET)
    except ApiError as error:
        assert error.code.status == 400
        return False
    if place is None:
        return False
    assert AskedQuery({"cursor": cursor(place, _SECRET)}).place(form, _SECRET) == place
    return True


def check_cookie(content: bytes) -> bool:
    """A `Cookie` header: a few secrets at most, each of which it holds."""
    found = list(_COOKIE.secrets_in({b"cookie": content}))
    assert len(found) <= 8
    for secret in found:
        assert re.search(rb"troth_session_8001=" + re.escape(secret.encode()), content)
    return bool(found)


QUESTION_TARGETS: Final = (
    Target(
        "filter",
        check_filter,
        (b"id=", b"state=", b"states=", b"tags[a]=", b"watch=", b"topics=", b"&", b",", b"%", b"*"),
        ("http/bulk/filters.py", "http/promises/search_endpoints.py", "http/questions/asked.py"),
        3_000,
    ),
    Target(
        "place",
        check_place,
        (
            b"{",
            b"[",
            b"null",
            b"1e9",
            b".",
            b"=",
            b'"tasks"',
            b'"locks"',
            b'"timers"',
            b'"stalled"',
        ),
        ("http/questions/asked.py", "http/wire/cursors.py"),
        3_000,
    ),
    Target(
        "cookie",
        check_cookie,
        (b"troth_session_8001=", b";", b"; ", b"=", b'"', b"\xff"),
        ("http/api/session_cookies.py",),
        15_000,
    ),
)
