"""The short version of the proof in `histories.py`, and that it can fail."""

from pathlib import Path

import pytest

from tests.proofs.histories import Asked, History, read_reply, record
from troth.core.codes import Code
from troth.core.commands import Command, ReadPromise
from troth.core.model import PromiseState
from troth.core.replies import Reply

SEED = 11


@pytest.mark.slow
def test_what_clients_see_of_a_server_that_is_killed_has_an_explanation(tmp_path: Path) -> None:
    print(f"seed {SEED}")

    history = record(tmp_path, SEED, lives_count=4)

    assert history.operations_count > 300, "there was hardly any load"
    assert history.unknown_count > 0
    assert history.unexplained() == []
    _forget_the_end_of_a_promise(history)
    assert history.unexplained() != []


def _forget_the_end_of_a_promise(history: History) -> None:
    """Let a late client read that the first promise was never made: a lost write."""
    first = next(
        one.output.promise.id
        for one in history.promises
        if one.output is not None and one.output.promise is not None
    )
    missing = Reply(Code.PROMISE_NOT_FOUND)
    latest = max(one.called for one in history.promises)
    history.add(ReadPromise(first), latest + 1, latest + 2, 0, missing)


def test_answers_are_read_as_the_models_need_them() -> None:
    asked = Asked(ReadPromise("p"), "GET", "/promises/p")
    command: Command = asked.command

    shown = read_reply(asked, 200, {"id": "p", "state": "RESOLVED", "value": {"data": "eA=="}})
    refused = read_reply(asked, 404, {"error": {"code": 40400}})

    assert command == ReadPromise("p")
    assert shown.code is Code.OK
    assert shown.promise is not None
    assert (shown.promise.state, shown.promise.value.data) == (PromiseState.RESOLVED, "eA==")
    assert refused == Reply(Code.PROMISE_NOT_FOUND)
