"""How far the bulk jobs are: any process of a server is told by the one that drives them."""

from typing import Final

from troth.core.model import EMPTY_VALUE, replace
from troth.http.api.context import Api
from troth.http.supervision.seat import OWNER
from troth.shards.bulk.jobs import BulkProgress
from troth.shards.errors import OutOfReach
from troth.shards.gathered.asking import ask_one
from troth.shards.mesh.calls import ProcessCall, ProcessCalls

BULK_JOBS: Final = ProcessCall("bulk.jobs", type(None), list[BulkProgress])


async def progress_here(api: Api) -> list[BulkProgress]:
    """Return how far the jobs are that this process drives, the newest first.

    Without their values and examples, which are large. Raises ShardsError: OutOfReach until it is
    known which jobs there are.
    """
    if api.bulk is None:
        raise OutOfReach
    found = api.bulk.all_progress()
    await api.shards.wait_shown()
    return [replace(one, job=replace(one.job, value=EMPTY_VALUE, examples=())) for one in found]


def share_progress(calls: ProcessCalls, api: Api) -> None:
    """Register what tells how far jobs are, and asks the process that drives them."""

    async def here(_process: int, _asked: None) -> list[BulkProgress]:
        return await progress_here(api)

    async def there() -> list[BulkProgress]:
        return await ask_one(calls, OWNER, BULK_JOBS, None)

    calls.handle(BULK_JOBS, here)
    api.bulk_progress = there
