"""The body that starts a bulk job."""

from typing import Annotated

from msgspec import Struct

from troth.core.bulk import BulkAction, BulkSubject
from troth.core.limits import BULK_RATE_COUNT, BULK_RATE_LIMIT_COUNT, BULK_VALUE_LIMIT_BYTES
from troth.http.functions.markers import Within
from troth.http.promises.schemas import ValueBody
from troth.http.wire.fields import Choice, Flag, Nested, StringMap


class BulkBody(Struct, rename="camel", forbid_unknown_fields=True):
    """What to do to everything that a filter finds."""

    action: Annotated[
        str | None,
        Choice(
            "What to do: cancel, reject or resolve promises; delete completed promises or "
            "schedules; retry tasks that are stalled; pause or resume schedules.",
            "cancel",
            required=True,
            choices=tuple(action.value for action in BulkAction),
        ),
    ] = None
    subject: Annotated[
        str | None,
        Choice(
            "What the filter is of. Absent means tasks for `retry`, schedules for `pause` and "
            "`resume`, else promises.",
            "promises",
            choices=tuple(subject.value for subject in BulkSubject),
        ),
    ] = None
    filter: Annotated[
        dict[str, str | None] | None,
        StringMap(
            "Parameters of `GET /promises`, `GET /tasks` or `GET /schedules` that say what is "
            "found, by name. Only what was made before the job starts is touched.",
            {"id": "order/*", "state": "pending", "tags[team]": "checkout"},
            tags=False,
        ),
    ] = None
    value: Annotated[
        ValueBody | None,
        Nested(
            "The value that promises are completed with; its data has at most "
            f"{BULK_VALUE_LIMIT_BYTES} characters.",
            body=ValueBody,
        ),
    ] = None
    dry_run: Annotated[
        bool | None, Flag("True: only count what would be done, and give examples.", True)
    ] = None
    rate_per_second: Annotated[
        int | None,
        Within(
            f"How many of them a second at most; {BULK_RATE_COUNT} unless given, up to "
            f"{BULK_RATE_LIMIT_COUNT}. The job gives way to clients, so it may be slower.",
            BULK_RATE_COUNT,
            minimum=1,
            maximum=BULK_RATE_LIMIT_COUNT,
        ),
    ] = None
