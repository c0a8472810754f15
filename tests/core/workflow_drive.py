"""Random commands of both APIs on the same promises: `Drive`, with the envelope protocol in it."""

from collections import Counter

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.limits import INTEGER_MAX
from troth.core.model import PromiseState
from troth.core.workflows import WorkflowFence, WorkflowState

from .drive import CRONS, OPTIONS, PROMISE_IDS, TEMPLATES, Drive
from .workflow_model import WorkflowModel

TARGETS = ("poll://any@g", "poll://uni@g/w1", "http://localhost/x", "nonsense")
ADDRESSES = ("poll://uni@g/1", "poll://any@g/2", "http://localhost/y", "poll://any@h")
PIDS = ("p1", "p2")
CLAIMS = (None, "sr-1", "sr-2")
ENDS = (PromiseState.RESOLVED, PromiseState.REJECTED, PromiseState.REJECTED_CANCELED)


class WorkflowDrive(Drive):
    """A random run in which half of the commands are of the envelope protocol."""

    model_type = WorkflowModel
    model: WorkflowModel

    def __init__(
        self, seed: int, shard_count: int, is_lazy: bool, makes_checkpoints: bool = False
    ) -> None:
        limit_count = 1 + seed % 3
        self.options = Options(
            task_claim_timeout_ms=OPTIONS.task_claim_timeout_ms,
            catch_up_count=OPTIONS.catch_up_count,
            workflow_retry_ms=70,
            waiting_limit_count=limit_count,
        )
        super().__init__(seed, shard_count, is_lazy, makes_checkpoints)
        self.model.waiting_limit = limit_count
        self.rows: Counter[tuple[str, str, Code]] = Counter()

    def ask(self, command: c.Command) -> Code:
        """Note in which state the task was; heartbeats go to all shards."""
        if isinstance(command, w.RenewWorkflows):
            return self.renew(command)
        fence = getattr(command, "fence", None)
        is_fenced = isinstance(fence, WorkflowFence)
        subject = fence.id if isinstance(fence, WorkflowFence) else getattr(command, "id", "")
        state = self.state_of(subject)
        code = super().ask(command)
        self.rows["fence" if is_fenced else type(command).__name__, state, code] += 1
        return code

    def state_of(self, identifier: str) -> str:
        """A task's state, as the model has it now."""
        self.model.settle(self.system.now)
        task = self.model.workflows.get(identifier)
        return "absent" if task is None else task.state

    def renew(self, command: w.RenewWorkflows) -> Code:
        """As `Shards.renew_workflows`."""
        self.model.settle(self.system.now)
        expected = self.model.answer(command)
        count = 0
        for index in range(self.system.shard_count):
            tasks = tuple(one for one in command.tasks if self.system.shard_of(one[0]) == index)
            if tasks:
                reply = self.system.tell(index, w.RenewWorkflows(command.pid, tasks)).reply
                count += reply.count
        assert count == expected["count"], command
        self.seen["RenewWorkflows", Code.OK] += 1
        return Code.OK

    def search(self) -> None:
        """Tasks, too."""
        super().search()
        state = self.random.choice((None, *WorkflowState))
        self.model.settle(self.system.now)
        expected = self.model.search_workflows(None if state is None else state.value)
        limit_count, scan_count = self.random.choice(((1, 1), (1, 3), (2, 5), (100, 100)))
        found: list[tuple[int, str]] = []
        for index in range(self.system.shard_count):
            before: int | None = INTEGER_MAX
            while before is not None:
                query = w.SearchWorkflows(state, limit_count, before, scan_count)
                page = self.system.tell(index, query).reply.workflows
                assert page is not None
                assert len(page.workflows) <= limit_count
                assert page.next_before is None or page.next_before < before, "no progress"
                found += [(-one.serial, one.id) for one in page.workflows]
                before = page.next_before
        assert [name for _, name in sorted(found)] == expected

    def may_be_late(self, kind: c.TimerKind, identifier: str) -> bool:
        """A lease that has ended is seen by whoever looks; so is the end of what nobody awaits."""
        if kind is c.WORKFLOW_TIMER:
            return True
        if kind is c.UNBLOCK_TIMER:
            return False
        for machine in self.system.machines:
            state = machine.state
            if any(
                identifier in pair for pair in (*state.awaits.pairs(), *state.listeners.pairs())
            ):
                return False
            task = state.workflows.get(identifier)
            if task is not None and task.awaited:
                return False
        return super().may_be_late(kind, identifier)

    def report(self) -> None:
        """Delivery says something about workflows, or about anything else."""
        random, workers = self.random, self.system.workflows
        if random.random() < 0.5:
            super().report()
            return
        self.model.settle(self.system.now)
        if workers.sending and random.random() < 0.6:
            workflow_id = random.choice(sorted(workers.sending))
            if random.random() < 0.7:
                workers.report_sent(workflow_id)
                self.events["execute sent"] += 1
            else:
                workers.report_not_sent(workflow_id)
                self.events["execute not sent"] += 1
        elif workers.stalled or workers.unclaimed:
            workers.report_retry(random.choice(sorted({*workers.stalled, *workers.unclaimed})))
            self.events["execute again"] += 1
        elif workers.unblocks:
            pair = random.choice(sorted(workers.unblocks))
            workers.report_unblocked(*pair)
            self.model.unblocks.remove(pair)
            self.events["unblocked"] += 1

    def crash(self) -> None:
        """A claim may come again after that."""
        super().crash()
        self.model.restart()

    def pass_time(self) -> None:
        """Half as often, so that tasks live to see more."""
        if self.random.random() < 0.4:
            super().pass_time()
        else:
            self.ask(self.command())

    # Commands

    def promise_id(self) -> str:
        """Few ids, so that there is a workflow behind most of them."""
        pending = [one.id for one in self.model.promises.values() if one.state == "PENDING"]
        if pending and self.random.random() < 0.6:
            return self.random.choice(pending)
        if self.random.random() < 0.3:
            return f"n{self.random.randint(0, 29)}"
        return self.random.choice(PROMISE_IDS)

    def timeout(self) -> int:
        """A deadline, mostly far."""
        return INTEGER_MAX if self.random.random() < 0.75 else super().timeout()

    def command(self) -> c.Command:
        """Both APIs."""
        held_count = sum(one.state == "acquired" for one in self.model.workflows.values())
        if held_count < 2 and self.random.random() < 0.4:
            return self.create_workflow() if held_count else self.acquire()
        if self.random.random() < 0.3:
            return super().command()
        return self.random.choice(
            (
                *(self.ensure,) * 4,
                *(self.settle,) * 3,
                *(self.create_workflow,) * 3,
                *(self.acquire,) * 5,
                *(self.suspend,) * 6,
                *(self.fulfill,) * 2,
                *(self.release,) * 2,
                *(self.renew_command,) * 2,
                *(self.register,) * 2,
                self.listen,
                self.halt,
                self.resume,
                self.look,
                self.ensure_schedule,
            )
        )()

    def create_promise(self) -> c.Command:
        """REST's promises have targets, too."""
        made = super().create_promise()
        assert isinstance(made, c.CreatePromise)
        if self.random.random() < 0.4:
            tags = {**(made.tags or {}), "resonate:target": self.random.choice(TARGETS)}
            return c.CreatePromise(
                *(made.id, made.timeout, made.param, tags, made.idempotency_key, made.strict),
                *(None, made.fence, made.claim),
            )
        return made

    def workflow_id(self, *states: str) -> str:
        """A task's id, often of one in a certain state."""
        fitting = [one.id for one in self.model.workflows.values() if one.state in states]
        if fitting and self.random.random() < 0.9:
            return self.random.choice(fitting)
        return self.promise_id()

    def version(self, workflow_id: str, less: int = 0) -> int:
        """Its version, mostly."""
        task = self.model.workflows.get(workflow_id)
        version = 0 if task is None else task.version
        return max(0, version - less - self.random.choice((0, 0, 0, 0, 0, 1, -1)))

    def workflow_fence(self) -> WorkflowFence | None:
        """Whose request it is."""
        if self.random.random() < 0.5:
            return None
        workflow_id = self.workflow_id("acquired")
        return WorkflowFence(workflow_id, self.version(workflow_id))

    def target_tags(self) -> dict[str, str]:
        """The tags of a workflow."""
        random = self.random
        tags = {"resonate:target": random.choice(TARGETS)}
        if random.random() < 0.2:
            tags["resonate:timer"] = random.choice(("true", "false"))
        if random.random() < 0.1:
            tags["resonate:invoke"] = "poll://g"
        if random.random() < 0.3:
            tags["x"] = random.choice("12")
        return tags

    def ensure(self) -> c.Command:
        """promise.create."""
        tags = None
        if self.random.random() < 0.6:
            tags = self.target_tags()
            if self.random.random() < 0.2:
                near = self.system.now + self.random.choice((-5, 10, 60))
                tags["resonate:delay"] = str(near)
        elif self.random.random() < 0.3:
            tags = {self.random.choice(("resonate:timer", "resonate:timeout")): "true"}
        fence = self.workflow_fence()
        return w.EnsurePromise(self.promise_id(), self.timeout(), self.value(), tags, fence)

    def settle(self) -> c.Command:
        """promise.settle, often of what somebody waits for."""
        promise_id = self.promise_id()
        if self.model.awaits and self.random.random() < 0.5:
            promise_id = self.random.choice(self.model.awaits)[0]
        state = self.random.choice(ENDS)
        return w.SettlePromise(promise_id, state, self.value(), self.workflow_fence())

    def create_workflow(self) -> c.Command:
        """task.create."""
        random = self.random
        workflow_id = self.workflow_id("pending") if random.random() < 0.4 else self.promise_id()
        return w.CreateWorkflow(
            *(workflow_id, self.timeout(), random.choice(PIDS), self.workflow_ttl()),
            *(self.value(), self.target_tags(), random.choice(CLAIMS)),
        )

    def workflow_ttl(self) -> int:
        """A lease, mostly long."""
        return self.random.choice((1, 600, 100_000, 100_000, 100_000, INTEGER_MAX))

    def acquire(self) -> c.Command:
        """task.acquire, sometimes once more."""
        workflow_id = self.workflow_id(self.random.choice(("pending", "pending", "acquired")))
        task = self.model.workflows.get(workflow_id)
        less = int(task is not None and task.state == "acquired")
        pid, claim = self.random.choice(PIDS), self.random.choice(CLAIMS)
        version = self.version(workflow_id, less)
        return w.AcquireWorkflow(workflow_id, version, pid, self.workflow_ttl(), claim)

    def suspend(self) -> c.Command:
        """task.suspend on some promises, which often are pending."""
        workflow_id = self.workflow_id("acquired")
        pending = [
            one.id
            for one in self.model.promises.values()
            if one.state == "PENDING" and one.id != workflow_id
        ]
        count = self.random.choice((1, 1, 2, 3))
        awaited = [
            self.random.choice(pending)
            if pending and self.random.random() < 0.7
            else self.waited_for()
            for _ in range(count)
        ]
        others = tuple(one for one in awaited if one != workflow_id) or ("none",)
        return w.SuspendWorkflow(workflow_id, self.version(workflow_id), others)

    def fulfill(self) -> c.Command:
        """task.fulfill."""
        workflow_id = self.workflow_id("acquired")
        state = self.random.choice(ENDS)
        return w.FulfillWorkflow(workflow_id, self.version(workflow_id), state, self.value())

    def release(self) -> c.Command:
        """task.release."""
        workflow_id = self.workflow_id("acquired")
        return w.ReleaseWorkflow(workflow_id, self.version(workflow_id))

    def renew_command(self) -> c.Command:
        """task.heartbeat, of tasks of all shards."""
        ids = [self.workflow_id("acquired") for _ in range(self.random.randint(1, 4))]
        tasks = {workflow_id: self.version(workflow_id) for workflow_id in ids}
        return w.RenewWorkflows(self.random.choice(PIDS), tuple(tasks.items()))

    def register(self) -> c.Command:
        """promise.register_callback."""
        awaiter = self.workflow_id("acquired", "suspended", "pending", "halted")
        awaited = self.waited_for()
        return w.RegisterAwait(awaited, awaiter if awaiter != awaited else "none")

    def listen(self) -> c.Command:
        """promise.register_listener."""
        return w.RegisterListener(self.waited_for(), self.random.choice(ADDRESSES))

    def waited_for(self) -> str:
        """A promise's id, often of one that others wait for already."""
        pairs = [*self.model.awaits, *self.model.listeners]
        if pairs and self.random.random() < 0.5:
            return self.random.choice(pairs)[0]
        return self.promise_id()

    def halt(self) -> c.Command:
        """task.halt."""
        return w.HaltWorkflow(self.workflow_id("acquired", "suspended", "pending", "halted"))

    def resume(self) -> c.Command:
        """task.continue."""
        return w.ContinueWorkflow(self.workflow_id("halted"))

    def look(self) -> c.Command:
        """task.get."""
        return w.ReadWorkflow(self.workflow_id("pending", "acquired", "suspended"))

    def ensure_schedule(self) -> c.Command:
        """schedule.create."""
        random = self.random
        timeout = random.choice((0, 50, 10_000, INTEGER_MAX))
        tags = {"resonate:target": random.choice(TARGETS)}
        return w.EnsureSchedule(
            *(random.choice(("s1", "s:2")), random.choice(CRONS), random.choice(TEMPLATES)),
            *(timeout, self.value(), tags),
        )
