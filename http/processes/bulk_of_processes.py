"""Bulk jobs of a server of several processes: process 0 drives them, in the shards of all groups.

A job begins with what there is in any group. Two kinds of jobs look at more than the shard that
they are in, which is not asked of other groups yet; they are refused.
"""

from typing import Final

from troth.core.bulk import BulkAction, BulkJob, BulkSubject
from troth.core.codes import Code
from troth.core.model import replace
from troth.http.api.shards_port import answered
from troth.http.wire.errors import ApiError
from troth.shards.errors import ShardsError
from troth.shards.mesh.calls import ProcessCall, ProcessCalls, the_first
from troth.shards.shards import Shards

NEWEST: Final = ProcessCall("serials.newest", type(None), int)
"""A serial that nothing of the group is above."""


def answer_about_serials(calls: ProcessCalls, shards: Shards) -> None:
    """Answer what the newest serial of this process's group is."""

    async def newest(_process: int, _asked: None) -> int:
        return shards.largest_serial

    calls.handle(NEWEST, newest)


async def prepared(calls: ProcessCalls, job: BulkJob) -> BulkJob:
    """Return a job that begins with the newest of all groups. Raises ApiError."""
    if job.subject is BulkSubject.TASKS:
        raise _refused("bulk jobs on tasks")
    if job.action is BulkAction.DELETE:
        raise _refused("bulk deletions")
    return replace(job, through=(await answered(_newest(calls)),))


async def _newest(calls: ProcessCalls) -> int:
    found = await calls.call_all(NEWEST, None)
    error = the_first(found)
    if error is not None:
        raise error
    return max(one for one in found.values() if not isinstance(one, ShardsError))


def _refused(about: str) -> ApiError:
    return ApiError(
        Code.SEVERAL_PROCESSES,
        message=f"A server of several processes does not have {about} yet; nothing was done.",
    )
