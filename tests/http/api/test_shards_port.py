"""What the shards fail with becomes an answer that says so."""

import pytest

from troth.core.codes import Code
from troth.http.api.shards_port import answered
from troth.http.wire.errors import ApiError
from troth.shards.errors import Overloaded, ShardsError, Stopping, StorageFailed


class AddedLater(ShardsError):
    """A kind that says nothing of its code."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded(), Code.OVERLOADED),
        (Stopping(), Code.SHUTTING_DOWN),
        (StorageFailed(), Code.STORE_FAILED),
        (AddedLater(), Code.SHUTTING_DOWN),
    ],
)
async def test_a_failure_of_the_shards_is_answered_with_its_code(
    error: ShardsError, code: Code
) -> None:
    async def asked() -> None:
        raise error

    with pytest.raises(ApiError) as caught:
        await answered(asked())

    assert caught.value.code is code
    assert code.status == 503
    assert caught.value.__cause__ is error
