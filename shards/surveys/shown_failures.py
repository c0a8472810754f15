"""Which failures may be seen by whom: all kinds, or what is about promises with a prefix."""

from collections.abc import Collection

from troth.core.failures import Failure, FailureKind, Failures
from troth.core.grammar import task_ids


def promise_of(failure: Failure) -> str:
    """Return the promise that a failure is about."""
    if failure.kind is FailureKind.PROMISE:
        return failure.subject
    name = task_ids.parse(failure.subject)
    return failure.subject if name is None else name.root


def newest_failures(
    failures: Failures,
    kinds: Collection[FailureKind],
    limit_count: int,
    before: int | None,
    id_prefix: str,
) -> tuple[list[Failure], bool]:
    """Return the newest of some kinds about promises that begin so; see `Failures.newest`."""

    def admits(failure: Failure) -> bool:
        return not id_prefix or promise_of(failure).startswith(id_prefix)

    return failures.newest(kinds, limit_count, before, admits)
