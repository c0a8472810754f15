"""Function tasks: assigned, reported, returned, finished, lost, too long, too late, canceled."""

from itertools import count

import pytest

from troth.core import commands as c
from troth.core import records as r
from troth.core.catalog import Capabilities, FunctionKind, Language
from troth.core.codes import Code
from troth.core.decisions.executions import process_of
from troth.core.executions import (
    EXECUTION_GRACE_MS,
    LOST_NODES_LIMIT_COUNT,
    Execution,
    ExecutionPlan,
    Usage,
    plan_of,
)
from troth.core.grammar import task_ids
from troth.core.machine import Machine, Step
from troth.core.model import Promise, PromiseState, TaskState, Value, replace
from troth.core.replies import ExecutionPage, Reply, TaskMessage
from troth.core.state.apply import replay

PLAN = ExecutionPlan("acc", "fun", FunctionKind.CODE, Capabilities(10), Language.PYTHON, "build")
ID = "troth:task/1"
TASK = task_ids.invoke_id(ID)
START_MS = 1_700_000_000_000
WAIT_MS = 86_400_000
LEASE_MS = 10_000
RESULT = Value({"troth:status": "201", "troth:headers": "[]"}, "aGk=")


class World:
    """One machine, its clock, and its timers: they fire when the clock is moved."""

    def __init__(self) -> None:
        self.now = START_MS
        self.machine = Machine(0, lambda _: 0, count(1).__next__)
        self.records: list[r.Record] = []
        self.timers: dict[tuple[c.TimerKind, str], int] = {}
        self.finished: list[str] = []
        self.sent: list[int] = []

    def step(self, command: c.Command) -> Step:
        step = self.machine.step(command, self.now)
        self.records += step.records
        self.finished += step.finished
        self.sent += [one.task.counter for one in step.sends if isinstance(one, TaskMessage)]
        for key, deadline in step.timers:
            self.timers.pop(key, None)
            if deadline is not None:
                self.timers[key] = deadline
        return step

    def ask(self, command: c.Command) -> Reply:
        return self.step(command).reply

    def wait(self, delay_ms: int, *, with_timers: bool = True) -> None:
        until = self.now + delay_ms
        while with_timers:
            due = min(((time, key) for key, time in self.timers.items()), default=None)
            if due is None or due[0] > until:
                break
            self.now = max(self.now, due[0])
            del self.timers[due[1]]
            self.step(c.Expire(*due[1]))
        self.now = until

    def create(self, promise_id: str = ID, key: str | None = None) -> Reply:
        command = c.CreateExecution(promise_id, self.now + WAIT_MS, PLAN, RESULT, key)
        return self.ask(command)

    def assign(self, counter: int = 1, node_id: str = "n") -> Reply:
        return self.ask(c.AssignExecution(TASK, counter, node_id, LEASE_MS))

    def report(self, counter: int = 1, node_id: str = "n", progress: int | None = None) -> Reply:
        return self.ask(c.ReportExecution(TASK, counter, node_id, progress))

    def finish(self, counter: int = 1, node_id: str = "n", value: Value = RESULT) -> Reply:
        return self.ask(c.FinishExecution(TASK, counter, node_id, PromiseState.RESOLVED, value))

    def execution(self) -> Execution:
        return self.machine.state.executions[ID]

    def headers(self) -> dict[str, str]:
        headers = self.machine.state.promises[ID].value.headers
        assert headers is not None
        return headers

    def check_replay(self) -> None:
        """Its records bring the same state back, and the same deadlines."""
        again = Machine(0, lambda _: 0, count(1).__next__)
        for record in self.records:
            replay(again.state, r.decode(r.encode(record)))
        for name in ("promises", "executions", "usage"):
            assert getattr(again.state, name) == getattr(self.machine.state, name)
        deadlines = {key: time for key, time in again.deadlines() if time is not None}
        assert deadlines == self.timers


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def created(world: World) -> World:
    world.create()
    return world


@pytest.fixture
def assigned(created: World) -> World:
    created.assign()
    return created


def test_a_function_task_is_a_promise_with_a_task_for_placement(world: World) -> None:
    reply = world.create()

    assert reply.code is Code.CREATED
    assert reply.execution == Execution(ID, PLAN)
    assert reply.promise is not None
    assert reply.promise.param == RESULT
    task = world.machine.state.tasks[TASK]
    assert task.sending
    assert plan_of(task.receiver) == PLAN
    assert world.ask(c.ReadExecution(ID)) == replace(reply, code=Code.OK)


def test_it_is_created_once(created: World) -> None:
    assert created.create().code is Code.PROMISE_EXISTS
    created.create("troth:task/2", "key")
    assert created.create("troth:task/2", "key").code is Code.OK
    assert created.create("troth:task/2", "other").code is Code.PROMISE_EXISTS
    assert created.machine.state.usage["fun"].created_count == 2


@pytest.mark.parametrize("identifier", ["troth:task/none", "other", "troth:archive/1"])
def test_nothing_else_is_a_function_task(created: World, identifier: str) -> None:
    created.ask(c.CreatePromise("other", created.now + 9, tags={"resonate:invoke": "poll://g"}))
    created.ask(c.StorePackage("troth:archive/1", "eA=="))
    task_id = task_ids.invoke_id(identifier)

    for command in (
        *(c.ReadExecution(identifier), c.CancelExecution(identifier)),
        *(c.AssignExecution(task_id, 1, "n", 9), c.ReportExecution(task_id, 1, "n")),
        *(c.ReturnExecution(task_id, 1, "n"), c.ReportExecution("nonsense", 1, "n")),
        c.FinishExecution(task_id, 1, "n", PromiseState.RESOLVED, RESULT),
    ):
        assert created.ask(command) == Reply(Code.EXECUTION_NOT_FOUND)


def test_a_node_claims_it(created: World) -> None:
    reply = created.assign()

    assert reply.code is Code.CREATED
    assert reply.execution == Execution(ID, PLAN, "n", START_MS)
    assert reply.task is not None
    assert reply.task.process_id == process_of("n")
    assert reply.task.expires_at == START_MS + LEASE_MS
    again = created.assign()
    assert again == replace(reply, code=Code.OK), "the reply may have been lost on the way"
    assert created.assign(node_id="m").code is Code.TASK_CLAIMED
    created.check_replay()


def test_a_stale_message_is_not_claimed(created: World) -> None:
    assert created.assign(counter=2).code is Code.TASK_COUNTER


def test_reports_keep_the_lease_and_note_progress(assigned: World) -> None:
    for progress in (None, 10, 10, None, 75):
        assigned.wait(LEASE_MS - 8_000)
        assert assigned.report(progress=progress).code is Code.OK

    assert assigned.execution().progress == 75
    assert assigned.execution().lost_nodes_count == 0
    noted = [one.progress for one in assigned.records if isinstance(one, r.ExecutionReported)]
    assert noted == [None, 10, None, None, 75], "what is known already is not written again"
    assigned.check_replay()


@pytest.mark.parametrize(("counter", "node_id"), [(2, "n"), (1, "m")])
def test_only_who_holds_it_may_speak_of_it(assigned: World, counter: int, node_id: str) -> None:
    assert assigned.report(counter, node_id).code is Code.EXECUTION_NOT_HELD
    assert assigned.finish(counter, node_id).code is Code.EXECUTION_NOT_HELD
    given_back = assigned.ask(c.ReturnExecution(TASK, counter, node_id))
    assert given_back.code is Code.EXECUTION_NOT_HELD


def test_a_heartbeat_in_the_nodes_name_keeps_nothing(assigned: World) -> None:
    assigned.wait(LEASE_MS - 1)

    assert assigned.ask(c.HeartbeatTasks(process_of("n"))) == Reply(Code.OK)
    assigned.wait(1)
    assert assigned.execution().lost_nodes_count == 1


@pytest.mark.parametrize("with_timers", [True, False])
def test_a_silent_node_is_lost(assigned: World, with_timers: bool) -> None:
    assigned.report(progress=50)
    assigned.wait(LEASE_MS, with_timers=with_timers)

    assert assigned.report().code is Code.EXECUTION_NOT_HELD
    assert assigned.execution() == Execution(ID, PLAN, lost_nodes_count=1)
    assert assigned.sent == [1, 2], "it is offered again"
    assert assigned.assign(counter=2, node_id="m").code is Code.CREATED
    assert assigned.finish(1).code is Code.EXECUTION_NOT_HELD
    assert assigned.finish(2, "m").code is Code.CREATED
    assert assigned.headers()["troth:lost-nodes"] == "1"
    assert assigned.headers()["troth:node"] == "m"
    assigned.check_replay()


@pytest.mark.parametrize("with_timers", [True, False])
def test_who_loses_too_many_nodes_ends(created: World, with_timers: bool) -> None:
    for counter in range(1, LOST_NODES_LIMIT_COUNT + 2):
        assert created.assign(counter).code is Code.CREATED
        created.wait(LEASE_MS, with_timers=with_timers)

    reply = created.ask(c.ReadExecution(ID))
    assert reply.execution is None
    assert reply.promise is not None
    assert reply.promise.state is PromiseState.REJECTED
    assert reply.promise.completed_on == created.now
    assert created.headers()["troth:status"] == "502"
    assert created.headers()["troth:lost-nodes"] == str(LOST_NODES_LIMIT_COUNT + 1)
    assert "troth:node" not in created.headers()
    assert created.finished == [ID]
    assert created.timers == {}
    created.check_replay()


def test_a_message_that_nobody_takes_up_loses_no_node(created: World) -> None:
    for counter in range(1, LOST_NODES_LIMIT_COUNT + 3):
        created.ask(c.TaskSent(TASK, counter))
        created.wait(10_000)

    assert created.execution() == Execution(ID, PLAN)
    assert created.assign(LOST_NODES_LIMIT_COUNT + 3).code is Code.CREATED


def test_giving_back_loses_no_node(assigned: World) -> None:
    assigned.report(progress=9)

    assert assigned.ask(c.ReturnExecution(TASK, 1, "n")).code is Code.NO_CONTENT
    assert assigned.execution() == Execution(ID, PLAN)
    assert assigned.sent == [1, 2]
    assert assigned.ask(c.ReturnExecution(TASK, 1, "n")).code is Code.EXECUTION_NOT_HELD
    assigned.check_replay()


def test_the_result_ends_it(assigned: World) -> None:
    assigned.wait(1_234)
    reply = assigned.finish()

    assert reply.code is Code.CREATED
    assert reply.execution == Execution(ID, PLAN, "n", START_MS), "as it was"
    assert reply.promise is not None
    assert reply.promise.state is PromiseState.RESOLVED
    assert reply.promise.completed_on == assigned.now
    assert reply.promise.value == Value(
        {
            "troth:status": "201",
            "troth:headers": "[]",
            "troth:node": "n",
            "troth:assigned": str(START_MS),
        },
        "aGk=",
    )
    assert assigned.machine.state.tasks[TASK].state is TaskState.COMPLETED
    assert assigned.finished == [ID]
    assert assigned.timers == {}
    assert assigned.machine.state.usage["fun"].finished_count == 1
    assigned.check_replay()


def test_the_same_result_again_is_fine(assigned: World) -> None:
    first = assigned.finish()

    assert assigned.finish() == Reply(Code.OK, promise=first.promise)
    assert assigned.finish(value=Value({"troth:status": "500"})).code is Code.EXECUTION_FINISHED
    assert assigned.finish(node_id="m").code is Code.EXECUTION_FINISHED
    assert assigned.finish(counter=2).code is Code.EXECUTION_FINISHED
    assert assigned.report().code is Code.EXECUTION_FINISHED
    assert assigned.assign().code is Code.EXECUTION_FINISHED
    assert assigned.ask(c.CancelExecution(ID)).code is Code.EXECUTION_FINISHED


@pytest.mark.parametrize("with_timers", [True, False])
def test_what_runs_too_long_is_ended(assigned: World, with_timers: bool) -> None:
    limit_ms = PLAN.capabilities.timeout_s * 1_000 + EXECUTION_GRACE_MS
    for _ in range(limit_ms // 3_000 - 1):
        assigned.wait(3_000)
        assert assigned.report().code is Code.OK
    assigned.wait(2_999)
    assert assigned.report().code is Code.OK
    assigned.wait(1, with_timers=with_timers)

    assert assigned.report().code is Code.EXECUTION_FINISHED
    promise = assigned.machine.state.promises[ID]
    assert promise.state is PromiseState.REJECTED
    assert promise.completed_on == START_MS + limit_ms
    assert assigned.headers()["troth:status"] == "504"
    assert assigned.headers()["troth:error"]
    assert assigned.headers()["troth:node"] == "n"
    assert assigned.finished == [ID]
    assert assigned.timers == {}
    assigned.check_replay()


def test_a_lease_that_ends_before_the_time_is_up_comes_first(assigned: World) -> None:
    """Also if nobody looks until both have passed."""
    assigned.wait(60_000, with_timers=False)

    assert assigned.ask(c.ReadExecution(ID)).execution == Execution(ID, PLAN, lost_nodes_count=1)


@pytest.mark.parametrize("with_timers", [True, False])
def test_what_waits_too_long_is_ended(created: World, with_timers: bool) -> None:
    created.wait(WAIT_MS, with_timers=with_timers)

    reply = created.ask(c.ReadExecution(ID))
    assert reply.promise is not None
    assert reply.promise.state is PromiseState.REJECTED_TIMEDOUT
    assert created.headers() == {"troth:status": "504"}
    assert created.finished == [ID]
    created.check_replay()


@pytest.mark.parametrize("is_assigned", [True, False])
def test_canceling(created: World, is_assigned: bool) -> None:
    if is_assigned:
        created.assign()
    before = created.execution()

    reply = created.ask(c.CancelExecution(ID))
    assert (reply.code, reply.execution) == (Code.CREATED, before)
    assert reply.promise is not None
    assert reply.promise.state is PromiseState.REJECTED_CANCELED
    assert created.headers()["troth:status"] == "410"
    assert ("troth:node" in created.headers()) == is_assigned
    assert created.ask(c.CancelExecution(ID)) == Reply(Code.OK, promise=reply.promise)
    assert created.finish().code is Code.EXECUTION_FINISHED
    assert created.finished == [ID]
    created.check_replay()


def test_use_is_counted_by_day_for_a_week(world: World) -> None:
    today = START_MS // 86_400_000
    for number in range(9):
        for copy in range(number + 1):
            world.create(f"troth:task/{number}.{copy}")
        world.now += 86_400_000

    days = {today + number: number + 1 for number in range(2, 9)}
    mine = Usage("fun", "acc", sum(range(1, 10)), 0, days)
    assert world.ask(c.ListUsage("acc")).usage == (mine,)
    assert world.ask(c.ListUsage(None)).usage == (mine,)
    assert world.ask(c.ListUsage("other")).usage == ()


def test_they_are_found_by_account_and_function(world: World) -> None:
    others = replace(PLAN, account_id="other")
    for number in range(6):
        world.create(f"troth:task/{number}")
        world.ask(c.CreateExecution(f"troth:task/o{number}", world.now + WAIT_MS, others))
    tags = {"troth:account": "acc", "troth:function": "fun"}
    world.ask(c.CreatePromise("a client's", world.now + 9, tags=tags))
    world.ask(c.CancelExecution("troth:task/5"))

    found: list[tuple[Promise, Execution | None]] = []
    before: int | None = 10**9
    while before is not None:
        search = c.SearchExecutions("acc", "fun", 2, before, 3)
        page = world.ask(search).executions
        assert page is not None
        assert len(page.executions) <= 2
        found += page.executions
        before = page.next_before
    assert [promise.id for promise, _ in found] == [f"troth:task/{n}" for n in range(5, -1, -1)]
    assert [execution is None for _, execution in found] == [True, *[False] * 5]
    assert all(promise.param == Value() for promise, _ in found)
    assert found[0][0].value.headers is not None
    nothing = world.ask(c.SearchExecutions("acc", "none", 9, 10**9, 9)).executions
    assert nothing == ExecutionPage((), None)


@pytest.mark.parametrize("pattern", ["*", "troth:*", "t*", "troth:task/1", "*1"])
@pytest.mark.parametrize("tags", [{}, {"troth:account": "acc"}])
def test_searches_for_promises_never_show_them(
    created: World, pattern: str, tags: dict[str, str]
) -> None:
    created.ask(c.StorePackage("troth:archive/1", "eA=="))
    created.ask(c.CreatePromise("t1", created.now + 9, tags={"troth:account": "acc"}))

    for states in (tuple(PromiseState), tuple(PromiseState)[1:]):
        page = created.ask(c.SearchPromises(pattern, states, tags, 9, 10**9, 9)).promises
        assert page is not None
        assert {one.id for one in page.promises} <= {"t1"}
        assert page.next_before is None


def test_archives_are_kept_until_their_builds_go(world: World) -> None:
    store = c.StorePackage("troth:archive/1", "eA==")
    reply = world.ask(store)

    assert reply.code is Code.CREATED
    assert reply.promise is not None
    assert (reply.promise.state, reply.promise.value.data) == (PromiseState.RESOLVED, "eA==")
    assert world.ask(store) == replace(reply, code=Code.OK)
    assert world.ask(c.StorePackage("troth:archive/1", "eQ==")) == Reply(Code.PROMISE_EXISTS)
    both = c.DeletePromises(("troth:archive/1", "troth:archive/2"))
    assert world.ask(both) == Reply(Code.OK, count=1)
    assert world.ask(both) == Reply(Code.OK, count=0)
    assert world.ask(c.ReadPromise("troth:archive/1")).code is Code.PROMISE_NOT_FOUND
    assert world.machine.state.promises_count == 0
    world.check_replay()


@pytest.mark.parametrize("promise_id", ["troth:x", "{{.id}}th:x", "tro{{ .id }}", "{{.id}}"])
def test_no_schedule_makes_reserved_promises(world: World, promise_id: str) -> None:
    schedule_id = {"{{.id}}th:x": "tro", "{{.id}}": "troth:s"}.get(promise_id, "th:s")
    command = c.CreateSchedule(schedule_id, "* * * * *", promise_id, 9)

    assert world.ask(command) == Reply(Code.RESERVED_ID)
