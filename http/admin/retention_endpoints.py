"""Retention on demand: delete now what the server's rules reach, or count what rules would reach.

It needs the scope `admin`.
"""

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.api.shards_port import answered
from troth.http.promises.schemas import RetentionBody
from troth.http.settings.kinds import SettingRefused
from troth.http.settings.retention import RetentionRules, rule_texts
from troth.http.wire.errors import ApiError, invalid
from troth.http.wire.requests import Response

from .answers import RetentionOutcomeObject, retention_outcome


async def sweep(api: Api, call: Call) -> Response:
    """POST /admin/retention."""
    body: RetentionBody = call.body
    sweeper = api.sweeper
    if sweeper is None:
        raise ApiError(Code.STARTING)
    rules, is_dry = sweeper.rules, bool(body.dry_run)
    if body.retain is not None:
        is_dry = True
        try:
            rules = RetentionRules().from_text(body.retain)
        except SettingRefused as refusal:
            raise invalid("retain", f"must be {refusal}") from refusal
    if is_dry:
        outcome = await answered(sweeper.dry_run(rules))
    else:
        async with api.audit.act(call.request, "retention.sweep") as told:
            outcome = await answered(sweeper.sweep())
            told["deleted"] = sum(outcome.counts)
    made = retention_outcome(
        rule_texts(rules),
        outcome.counts,
        is_dry=is_dry,
        waiting_count=outcome.waiting_count,
        duration_ms=outcome.duration_ms,
    )
    return answer(Code.OK, made)


ENDPOINTS = (
    Endpoint(
        name="sweepRetention",
        group="Server",
        method="POST",
        path="/admin/retention",
        summary="Delete what retention rules reach",
        description=(
            "Applies the server's retention rules now and says how many promises each rule "
            "has deleted or, in a dry run, would delete. A dry run may try other rules. A "
            "promise counts for the first rule that applies to it. Promises that unfinished "
            "work still needs wait, and are counted separately. For the operator, and for "
            "tokens and users with the scope `admin`."
        ),
        handler=sweep,
        scope=Scope.ADMIN,
        body=RetentionBody,
        successes=(Success(200, "What was or would be deleted.", RetentionOutcomeObject),),
    ),
)
