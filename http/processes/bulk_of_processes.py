"""Bulk jobs of a server of several processes: process 0 drives them, in the shards of all groups.

A job begins with what there is in any group. Two kinds of jobs look at more than the shard that
they are in, which is not asked of other groups yet; they are refused.
"""

from troth.core.bulk import BulkAction, BulkJob, BulkSubject
from troth.core.codes import Code
from troth.core.model import replace
from troth.http.api.shards_port import answered
from troth.http.wire.errors import ApiError
from troth.shards.gathered.whole import WholeServer


async def prepared(whole: WholeServer, job: BulkJob) -> BulkJob:
    """Return a job that begins with the newest of all groups. Raises ApiError."""
    if job.subject is BulkSubject.TASKS:
        raise _refused("bulk jobs on tasks")
    if job.action is BulkAction.DELETE:
        raise _refused("bulk deletions")
    numbers = await answered(whole.numbers())
    return replace(job, through=(numbers.largest_serial,))


def _refused(about: str) -> ApiError:
    return ApiError(
        Code.SEVERAL_PROCESSES,
        message=f"A server of several processes does not have {about} yet; nothing was done.",
    )
