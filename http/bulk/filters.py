"""Filters of bulk jobs: the parameters of a list, read by what reads them for that list.

A parameter that the list does not know, or that says how it is shown, is refused: a filter with a
misspelled name would find more than was meant.
"""

from collections.abc import Mapping

from troth.core.bulk import BulkFilter, BulkSubject
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import Call
from troth.http.promises.search_endpoints import (
    PROMISE_FILTERS,
    SCHEDULE_FILTERS,
    names_tag,
    read_search,
)
from troth.http.questions.asked import AskedQuery
from troth.http.questions.list_endpoints import TASK_FILTERS, read_task_query
from troth.http.wire.errors import ApiError, FieldProblem
from troth.shards.surveys.rows import TaskFamily

_KNOWN: Mapping[BulkSubject, frozenset[str]] = {
    BulkSubject.PROMISES: PROMISE_FILTERS,
    BulkSubject.SCHEDULES: SCHEDULE_FILTERS,
    BulkSubject.TASKS: TASK_FILTERS,
}


def read_filter(api: Api, call: Call, subject: BulkSubject, asked: dict[str, str]) -> BulkFilter:
    """Return what a filter means. Raises ApiError with all that is wrong."""
    has_tags = subject is not BulkSubject.TASKS
    unknown = [
        name for name in asked if name not in _KNOWN[subject] and not (has_tags and names_tag(name))
    ]
    if unknown:
        known = [*sorted(_KNOWN[subject]), *(["tags[name]"] if has_tags else [])]
        problem = f"is not a filter of {subject.value}: those are {', '.join(known)}"
        raise ApiError(
            Code.INVALID, [FieldProblem(f"filter.{name[:64]}", problem) for name in unknown]
        )
    try:
        return _read(api, call, subject, asked)
    except ApiError as error:
        problems = [
            FieldProblem(f"filter.{one.field.removeprefix('query ')}", one.problem)
            for one in error.problems
        ]
        if not problems:
            raise
        raise ApiError(error.code, problems) from error


def _read(api: Api, call: Call, subject: BulkSubject, asked: dict[str, str]) -> BulkFilter:
    if subject is BulkSubject.TASKS:
        parameters = AskedQuery(asked)
        query = read_task_query(parameters, call)
        parameters.done()
        return BulkFilter(
            query.root or "*",
            tuple(sorted(query.states)),
            families=tuple(sorted(query.families - {TaskFamily.FUNCTION})),
            receiver=query.receiver,
            process_id=query.process_id,
        )
    search = read_search(api, asked, subject.value)
    return BulkFilter(
        search.pattern,
        tuple(state.value for state in search.states),
        dict(search.tags),
        search.created,
        search.completed,
    )
