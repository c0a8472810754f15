"""What went wrong since the start: `GET /failures`.

With `promises:read` alone only promises are shown. A token with an id prefix sees what is about
promises that begin so, and nothing else.
"""

from typing import Annotated, NamedTuple

from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.failures import FAILURES_LIMIT_COUNT, Failure, FailureKind
from troth.core.limits import INTEGER_MAX
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Parameter, Success, answer
from troth.http.api.shards_port import answered
from troth.http.questions.asked import AskedQuery, limit_parameter, words_parameter
from troth.http.wire.answers import time_ms, told
from troth.http.wire.function_names import named_in
from troth.http.wire.requests import Response
from troth.shards.surveys.shown_failures import promise_of

_PROMISES = frozenset({FailureKind.PROMISE})
_OF_PROMISES = frozenset({FailureKind.PROMISE, FailureKind.LEASE, FailureKind.SENDING})
"""The kinds whose subject is a promise of a client, or a task of one."""


class FailureObject(Struct, gc=False):
    """Something that went wrong."""

    number: Annotated[int, told("Counts them since the start.", 1)]
    at: Annotated[int, time_ms("When")]
    kind: Annotated[FailureKind, told("What failed.", FailureKind.PROMISE.value)]
    id: Annotated[str, told("The promise, task, build or network address.", "order/42")]
    reason: Annotated[str, told("Why; for a promise its state.", "REJECTED")]
    about: Annotated[str, told("The receiver, process or function; may be empty.", "charge_card")]


class FailuresObject(Struct, gc=False):
    """Failures, newest first."""

    before: Annotated[int | None, told("For the next page; null if there is none.", None)]
    failures: list[FailureObject]


async def failures(api: Api, call: Call) -> Response:
    """GET /failures."""
    principal = call.request.principal
    asked = AskedQuery(call.request.query)
    limit_count = asked.limit(most=FAILURES_LIMIT_COUNT)
    before = asked.number("before", 1, INTEGER_MAX, INTEGER_MAX)
    wanted = asked.words("kind", [kind.value for kind in FailureKind])
    asked.done()
    shown = ShownFailures(Scope.METRICS_READ in principal.scopes, principal.id_prefix)
    kinds = shown.kinds
    if wanted:
        kinds &= {FailureKind(word) for word in wanted}
    asking = api.whole.failures(kinds, limit_count, before, shown.id_prefix)
    found, has_more = await answered(asking)
    rows = [failure_object(one) for one in found]
    return answer(Code.OK, FailuresObject(rows[-1].number if has_more else None, rows))


class ShownFailures(NamedTuple):
    """Which failures may be seen: those of promises only, or those with a prefix only."""

    sees_metrics: bool
    id_prefix: str

    @property
    def kinds(self) -> frozenset[FailureKind]:
        """The kinds that may be seen, or some of them."""
        kinds = frozenset(FailureKind) if self.sees_metrics else _PROMISES
        return kinds & _OF_PROMISES if self.id_prefix else kinds

    def admits(self, failure: Failure) -> bool:
        """Return whether one of these kinds may be seen."""
        return not self.id_prefix or promise_of(failure).startswith(self.id_prefix)


def failure_object(one: Failure) -> FailureObject:
    """Return a failure; about a promise, with the function that it stands for."""
    about = one.about or (named_in(one.param) if one.param else None) or ""
    return FailureObject(one.number, one.at, one.kind, one.subject, one.reason, about)


ENDPOINTS = (
    Endpoint(
        name="failures",
        group="Server",
        method="GET",
        path="/failures",
        summary="List what failed since the server started",
        description="The last 1,000 of each kind. With `promises:read`, promises only.",
        handler=failures,
        scope=Scope.METRICS_READ,
        or_scope=Scope.PROMISES_READ,
        query=(
            words_parameter("kind", "Only these.", [kind.value for kind in FailureKind]),
            limit_parameter(most=FAILURES_LIMIT_COUNT),
            Parameter(
                "before",
                "The `before` of the previous page.",
                {"type": "integer", "format": "int64", "minimum": 1},
            ),
        ),
        successes=(Success(200, "Newest first.", FailuresObject),),
        examples=("troth failures",),
    ),
)
