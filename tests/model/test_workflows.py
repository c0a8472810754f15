"""`POST /` against the model, with the REST API on the same promises: every kind, every status."""

import pytest

from tests.core.model import View
from tests.core.workflow_model import WorkflowModel
from tests.http.client import running
from troth.core import workflow_commands as w
from troth.http.envelope.operations import QUESTIONS
from troth.http.envelope.searches import PROCEDURES
from troth.http.settings.settings import Settings

from .workflows import DifferenceError, History, Row

RUNS_MIN_COUNT = 4
RUNS_LIMIT_COUNT = 60
STEPS_COUNT = 250

STATUSES = {
    "promise.get": (200, 404),
    "promise.create": (200, 400),
    "promise.settle": (200, 404),
    "promise.register_callback": (200, 400, 404, 422),
    "promise.register_listener": (200, 400, 404),
    "promise.search": (200,),
    "task.get": (200, 404),
    "task.create": (200, 400, 409, 422),
    "task.acquire": (200, 404, 409),
    "task.fence": (200, 400, 404, 409),
    "task.fence(promise.create)": (200,),
    "task.fence(promise.settle)": (200, 404),
    "task.suspend": (200, 300, 404, 409, 422),
    "task.fulfill": (200, 404, 409),
    "task.release": (200, 404, 409),
    "task.heartbeat": (200,),
    "task.halt": (200, 404, 409),
    "task.continue": (200, 404, 409),
    "task.search": (200,),
    "schedule.create": (200,),
    "schedule.get": (200, 404),
    "schedule.delete": (200, 404),
    "schedule.search": (200,),
    "POST promise": (200, 201, 409),
    "PATCH promise": (200, 201, 403, 404),
    "GET promise": (200, 404),
}
EXPECTED = {(kind, status) for kind, statuses in STATUSES.items() for status in statuses}


def test_every_kind_is_asked_for() -> None:
    assert {kind for kind in STATUSES if kind in QUESTIONS or kind in PROCEDURES} == {
        *QUESTIONS,
        *PROCEDURES,
    }


@pytest.mark.slow
async def test_the_envelope_protocol_does_what_the_model_says() -> None:
    rows: set[Row] = set()
    for seed in range(RUNS_LIMIT_COUNT):
        if seed >= RUNS_MIN_COUNT and rows >= EXPECTED:
            break
        async with running(Settings(debug_operations=True)) as world:
            history = History(seed, world)
            try:
                await history.run(STEPS_COUNT)
            except DifferenceError as error:
                error.add_note("\n".join((f"seed {seed}:", *history.said[-40:])))
                raise
        rows |= history.rows

    assert rows == EXPECTED


async def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is planted in the model: a release leaves the task with its holder."""

    def keep(model: WorkflowModel, command: w.ReleaseWorkflow) -> View:
        return {"code": model.held(command.id, command.version)}

    monkeypatch.setattr(WorkflowModel, "do_ReleaseWorkflow", keep)

    async def run_all() -> None:
        for seed in range(RUNS_LIMIT_COUNT):
            async with running(Settings(debug_operations=True)) as world:
                await History(seed, world).run(STEPS_COUNT)

    with pytest.raises(BaseExceptionGroup) as caught:
        await run_all()
    assert caught.value.split(DifferenceError)[1] is None
