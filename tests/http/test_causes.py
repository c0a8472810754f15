"""How a server ended: which ends are no failure of it, but begin again with what others have."""

import pytest

from troth.http.causes import is_overtaken, is_succeeded, problem_of
from troth.persistence.errors import CheckpointsOvertaken, DataDirectoryLost, LogFailed
from troth.persistence.streams.chain import StreamTrimmed
from troth.persistence.streams.stream_log import Deposed


@pytest.mark.parametrize(
    ("raised", "succeeded", "overtaken"),
    [
        ([Deposed("stream")], True, False),
        ([StreamTrimmed("stream", 1, 2), ValueError()], True, False),
        ([CheckpointsOvertaken("/data")], False, True),
        ([CheckpointsOvertaken("/data"), LogFailed("it broke")], False, False),
        ([Deposed("stream"), DataDirectoryLost("/data")], False, False),
        ([ValueError()], False, False),
    ],
)
def test_who_lags_behind_is_started_again(
    raised: list[Exception], succeeded: bool, overtaken: bool
) -> None:
    error = ExceptionGroup("the end", raised)
    assert is_succeeded(error) is succeeded
    assert is_overtaken(error) is overtaken
    assert (problem_of(error) is None) is (len(raised) == 1 and type(raised[0]) is ValueError)
