"""Pages of the function-task API: `?page=` and `?limit=`, counted from 1.

Older lists are bare arrays, whole unless one of the two is given; newer ones always come in pages,
with how many there are (greencloud.md 1).
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from msgspec import Struct

from troth.http.api.rows import Parameter
from troth.http.wire.decoding import integer
from troth.http.wire.errors import invalid

Row = TypeVar("Row")

PAGE_DEFAULT_COUNT: Final = 10
PAGE_LIMIT_COUNT: Final = 1_000
_PAGE_NUMBER_LIMIT: Final = 1_000_000


class Paging(Struct, frozen=True):
    """Which page, from 1, of how many rows each."""

    number: int
    limit_count: int

    def of(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows of this page; none beyond the last."""
        start = (self.number - 1) * self.limit_count
        return rows[start : start + self.limit_count]

    def page_count(self, total_count: int) -> int:
        """Return how many pages of this size there are."""
        return -(-total_count // self.limit_count)


def read_paging(query: Mapping[str, str]) -> Paging | None:
    """Return the page that a query asks for, or None if it asks for none. Raises ApiError (400)."""
    if not query.get("page") and not query.get("limit"):
        return None
    number = _within(query, "page", 1, _PAGE_NUMBER_LIMIT)
    return Paging(number, _within(query, "limit", PAGE_DEFAULT_COUNT, PAGE_LIMIT_COUNT))


FIRST_PAGE: Final = Paging(1, PAGE_DEFAULT_COUNT)
"""What newer lists answer when no page is asked for."""


def _within(query: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    given = query.get(name)
    if not given:
        return default
    number = integer(f"query {name}", given)
    if not 1 <= number <= maximum:
        raise invalid(f"query {name}", f"must be between 1 and {maximum} (got {number})")
    return number


PAGING_PARAMETERS: Final = (
    Parameter(
        "page",
        "Which page, counted from 1.",
        {"type": "integer", "minimum": 1, "maximum": _PAGE_NUMBER_LIMIT},
        example=1,
    ),
    Parameter(
        "limit",
        f"Rows of a page; {PAGE_DEFAULT_COUNT} unless given.",
        {"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT_COUNT},
        example=PAGE_DEFAULT_COUNT,
    ),
)
