"""Random commands for the system and the model at once, and the comparison of what they say.

`Drive` makes every choice from one `Random`, so a seed is a run. Ids come from small sets, so that
requests meet each other; some hold characters that mean something in task ids or paths.
"""

import fnmatch
import re
from collections import Counter
from random import Random

from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.limits import INTEGER_MAX
from troth.core.model import ClaimRequest, Fence, PromiseState, Value, replace

from .model import Model, View
from .system import System
from .views import message_key, reply_view

PROMISE_IDS = ("a", "b", "c", "a:b", "b:c", "a%3Ab", "a%b", "p/q r", "ünï⏰", ":", "100%", "a:b:c")
PROCESSES = ("w1", "w2")
KEYS = (None, "", "k1", "k2")
ROUTES = ("poll://g", "poll://uni@g/w1", "nobody", '{"type":"poll","data":{"group":"g"}}')
UNROUTED = ("7", "null", '"quoted"')
CRONS = ("* * * * * *", "@every 3s", "*/2 * * * * *", "0 0 31 2 *")
TEMPLATES = ("s.{{.timestamp}}", "{{.id}}:{{.timestamp}}", "a")
ALL_STATES = tuple(PromiseState)
OPTIONS = Options(task_claim_timeout_ms=40, catch_up_count=4, missed_slice_count=2, time_zone="UTC")
START_MS = 1_700_000_000_000


class Drive:
    """One random run.

    With `is_lazy`, timers whose lateness nobody can see fire late; the moments that then depend on
    it (when a task was completed together with its root) are not compared. With
    `makes_checkpoints` the steps of checkpoints come between everything else, and crashes between
    them; nobody may see that.
    """

    model_type: type[Model] = Model
    options: Options = OPTIONS

    def __init__(
        self, seed: int, shard_count: int, is_lazy: bool, makes_checkpoints: bool = False
    ) -> None:
        self.random = Random(seed)
        self.is_lazy = is_lazy
        store = MemoryStore() if makes_checkpoints else None
        self.checkpoint_steps: list[str] = []
        # Small slices: most completions with more than a waiter or two are then under way for long,
        # and most heartbeats take several steps.
        slice_count = (1, 2, self.options.completion_slice_count)[seed % 3]
        self.options = replace(
            self.options, completion_slice_count=slice_count, heartbeat_slice_count=slice_count
        )
        self.system = System(shard_count, self.options, now=START_MS, store=store)
        self.model = self.model_type(self.is_local, OPTIONS.task_claim_timeout_ms, 4)
        self.model.settle(START_MS)
        self.seen: Counter[tuple[str, Code]] = Counter()
        self.events: Counter[str] = Counter()

    def is_local(self, left: str, right: str) -> bool:
        """Whether two ids live in one shard."""
        return self.system.shard_of(left) == self.system.shard_of(right)

    def run(self, step_count: int) -> None:
        """Do that many random things, and compare after each."""
        for _ in range(step_count):
            self.one_thing()
        self.settle_all()
        self.compare()

    def one_thing(self) -> None:
        """One random thing."""
        if self.system.store is not None and self.random.random() < 0.4:
            self.checkpoint_step()
        chance = self.random.random()
        if chance < 0.30:
            self.pass_time()
        elif chance < 0.42:
            self.report()
        elif chance < 0.50:
            self.between_shards()
        elif chance < 0.51:
            self.crash()
        elif chance < 0.515:
            self.resume_time()
        elif chance < 0.54:
            self.search()
        else:
            self.ask(self.command())
        if not self.is_lazy or self.random.random() < 0.2:
            self.settle_all()
            self.compare()

    # Asking

    def ask(self, command: c.Command) -> Code:
        """Ask both, and compare the answers; return their code."""
        self.model.settle(self.system.now)
        expected = self.model.answer(command)
        reply = self.system.ask(command)
        got = reply_view(reply)
        if "count" in expected:
            got["count"] = reply.count
        assert self.masked(got) == self.masked(expected), command
        code: Code = expected["code"]
        self.seen[type(command).__name__, code] += 1
        return code

    def masked(self, seen: View) -> View:
        """Without what lateness may change."""
        if self.is_lazy and seen.get("task", {}).get("state") == "completed":
            seen["task"]["completed_on"] = None
        return seen

    def compare(self) -> None:
        """Compare all that is true."""
        got, expected = self.system.everything(), self.model.everything()
        if self.is_lazy:
            for task in (*got["tasks"].values(), *expected["tasks"].values()):
                task["completed_on"] = None
        for name in expected:
            assert got[name] == expected[name], name
        assert got.keys() == expected.keys()

    def search(self) -> None:
        """Search both."""
        random = self.random
        pattern = random.choice(("*", "a*", "*b*", "a:b", "*:*", "s.*", "nothing"))
        states = random.choice((ALL_STATES, (PromiseState.PENDING,), ALL_STATES[1:]))
        tags = random.choice(({}, {"x": "1"}))
        self.model.settle(self.system.now)
        regular = re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).fullmatch
        expected = self.model.search(lambda one: regular(one) is not None, states, tags)
        sizes = random.choice(((1, 1), (1, 3), (3, 1), (2, 5), (100, 100)))
        found = self.system.search(pattern, states, tags, *sizes)
        assert [promise.id for promise in found] == expected
        schedules = self.system.search_schedules("*", {}, *sizes)
        assert [one.id for one in schedules] == list(reversed(self.model.schedules))
        self.events["search"] += 1

    # Time

    def pass_time(self) -> None:
        """Let the clock jump: often exactly to a deadline, or just before one."""
        random, now = self.random, self.system.now
        ahead = sorted(
            {time for time, _, _ in self.model.deadlines() if time > now}
            | {now + 1, now + random.randint(0, 60)}
        )
        until = random.choice(ahead[:4])
        if until - now > 100_000:
            until = now + random.choice((0, 1, 40, 1_000, 7_000))
        until -= random.choice((0, 0, 0, 1)) if until > now else 0
        if random.random() < 0.5 and not self.is_lazy:
            while due := [one for one in self.system.due(until) if one[0] > self.system.now]:
                self.system.now = due[0][0]
                self.settle_all()
        self.system.now = until
        self.model.settle(until)
        self.fire_due(keep_some=self.is_lazy)
        self.events["time"] += 1

    def settle_all(self) -> None:
        """Fire everything that is due, as the shard does before it looks into its mailbox."""
        self.model.settle(self.system.now)
        self.fire_due(keep_some=False)

    def fire_due(self, *, keep_some: bool) -> None:
        """Fire due timers, in order; with `keep_some`, not all whose lateness is invisible."""
        kept: set[tuple[str, str]] = set()
        while True:
            due = [one for one in self.system.due(self.system.now) if one[3:1:-1] not in kept]
            if not due:
                return
            _, _, identifier, kind, index = due[0]
            if keep_some and self.may_be_late(kind, identifier) and self.random.random() < 0.7:
                kept.add((kind, identifier))
                self.events["late"] += 1
                continue
            is_schedule = kind is c.SCHEDULE_TIMER
            self.system.fire(kind, identifier, index)
            if is_schedule and not self.is_due(kind, identifier, index):
                self.model.run_schedule(identifier)
                self.events["schedule"] += 1
            self.model.settle(self.system.now)

    def is_due(self, kind: c.TimerKind, identifier: str, index: int) -> bool:
        """Whether that timer has to fire again at once."""
        return self.system.timers[index].get((kind, identifier), INTEGER_MAX) <= self.system.now

    def may_be_late(self, kind: c.TimerKind, identifier: str) -> bool:
        """Whether nobody can see that this timer fires late."""
        if kind is not c.PROMISE_TIMER:
            return kind in (c.TASK_TIMER, c.LOCK_TIMER)
        machines = self.system.machines
        waited_for = any(identifier in machine.state.callbacks for machine in machines)
        wakes = any(
            callback.root_id == identifier
            for machine in machines
            for group in machine.state.callbacks.values()
            for callback in group.values()
        )
        return not waited_for and not wakes and not self.model.transit

    # Workers, shards, crashes

    def report(self) -> None:
        """Delivery reports something about a task, sometimes something outdated."""
        random, system = self.random, self.system
        self.model.settle(system.now)
        if system.delivering and random.random() < 0.8:
            task_id = random.choice(sorted(system.delivering))
            counter = system.delivering[task_id]
            if random.random() < 0.65:
                system.report_sent(task_id, counter)
                self.model.task_sent(task_id, counter)
                self.events["sent"] += 1
            else:
                system.report_not_sent(task_id, counter)
                self.events["not sent"] += 1
        elif system.stalled:
            task_id = random.choice(sorted(system.stalled))
            system.report_retry(task_id, system.stalled[task_id])
            self.events["retry"] += 1
        elif system.sent:
            # An outdated report: of a message that is not being delivered any more.
            task = random.choice(system.sent).task
            if task.id not in system.delivering and task.id not in system.stalled:
                random.choice((system.report_sent, system.report_not_sent, system.report_retry))(
                    task.id, task.counter
                )
                self.events["outdated"] += 1

    def between_shards(self) -> None:
        """Deliver a message, perhaps twice; deliver an acknowledgement or lose it."""
        random, system = self.random, self.system
        if system.acknowledgments and random.random() < 0.5:
            acknowledgement = system.acknowledgments.pop(
                random.randrange(len(system.acknowledgments))
            )
            if random.random() < 0.7:
                system.tell(*acknowledgement)
            else:
                self.events["acknowledgement lost"] += 1
        if not system.posts:
            return
        source, target = random.choice(sorted(system.posts))
        self.settle_all()
        is_new = system.posts[source, target][0].sequence > (
            system.machines[target].state.inbox.get(source, 0)
        )
        message = system.deliver(source, target)
        if is_new:
            self.model.arrive(message_key(message.message))
            self.events["message"] += 1
        else:
            self.events["message again"] += 1
        if random.random() < 0.3:
            again = system.tell(target, message)
            assert again.records == [], "a message applied twice"
            self.events["message again"] += 1

    def crash(self) -> None:
        """Lose everything but the log; some time passes until the restart."""
        self.settle_all()
        transitions = self.system.transitions
        self.system.now += self.random.choice((0, 1, 50, 9_000, -9_000))
        self.system = self.system.restarted()
        self.checkpoint_steps = []
        self.system.transitions = transitions
        self.model.resume_time(self.system.now)
        self.model.follow_clock()
        self.settle_all()
        self.events["crash"] += 1

    def resume_time(self) -> None:
        """The server was away for a while, or its clock is set: forward, or back."""
        self.settle_all()
        step_ms = self.random.choice((0, 300, 9_000, -5_001, -60_000))
        self.system.now += step_ms
        self.system.resume_time(was_set_back=step_ms < 0)
        self.model.resume_time(self.system.now)
        if step_ms < 0:
            self.model.follow_clock()
        self.settle_all()
        self.events["clock set back" if step_ms < 0 else "away"] += 1

    def checkpoint_step(self) -> None:
        """Go one step further in a checkpoint, or begin one."""
        system, count = self.system, self.system.shard_count
        if not self.checkpoint_steps:
            if self.random.random() < 0.8:
                return
            self.checkpoint_steps = [*["capture"] * count, "write", "renew", *["evict"] * count]
        step = self.checkpoint_steps.pop(0)
        if step == "capture":
            if not system.capture_some(len(system.captures)):
                self.checkpoint_steps.insert(0, step)
                step = "slice"
        elif step == "write":
            system.write_checkpoint()
        elif step == "renew":
            system.renew()
        else:
            self.events["evicted"] += system.evict()
        self.events[step] += 1
        if self.random.random() < 0.05:
            self.crash()
            self.events[f"crash after {step}"] += 1

    # Commands

    def command(self) -> c.Command:
        """A random command, biased towards what can succeed."""
        return self.random.choice(
            (
                *(self.create_promise,) * 4,
                *(self.complete_promise,) * 4,
                *(self.callback,) * 4,
                *(self.task_command,) * 6,
                self.read,
                self.schedule,
                self.lock,
            )
        )()

    def promise_id(self) -> str:
        """An id that often exists."""
        pending = [one.id for one in self.model.promises.values() if one.state == "PENDING"]
        if pending and self.random.random() < 0.5:
            return self.random.choice(pending)
        if self.random.random() < 0.3:
            return f"n{self.random.randint(0, 99)}"
        return self.random.choice(PROMISE_IDS)

    def timeout(self) -> int:
        """A deadline, often near."""
        if self.random.random() < 0.6:
            return self.random.choice((INTEGER_MAX, START_MS * 2))
        return self.system.now + self.random.choice((-5, 0, 1, 10, 40, 80, 150, 5_000))

    def fence(self) -> Fence | None:
        """Mostly none; else a task that is held, or is not."""
        if self.random.random() < 0.8 or not self.model.tasks:
            return None
        task = self.random.choice(list(self.model.tasks.values()))
        return Fence(task.id, task.counter - self.random.choice((0, 0, 1)))

    def value(self) -> Value:
        """A value."""
        return self.random.choice((Value(), Value({"h": "1"}, "aGk="), Value(None, "")))

    def create_promise(self) -> c.Command:
        """A create, with or without task."""
        random = self.random
        tags = {}
        if random.random() < 0.6:
            tags["resonate:invoke"] = random.choice((*ROUTES, random.choice(UNROUTED)))
        if random.random() < 0.2:
            tags["resonate:timeout"] = random.choice(("true", "false"))
        if random.random() < 0.2:
            near = self.system.now + random.choice((-5, 10, 60))
            tags["resonate:delay"] = random.choice((str(near), "soon", str(INTEGER_MAX)))
        if random.random() < 0.3:
            tags["x"] = random.choice("12")
        return c.CreatePromise(
            self.promise_id(),
            self.timeout(),
            self.value(),
            tags or None,
            random.choice(KEYS),
            random.random() < 0.3,
            None,
            self.fence(),
            ClaimRequest(random.choice(PROCESSES), self.ttl()) if random.random() < 0.3 else None,
        )

    def ttl(self) -> int:
        """A lease."""
        return self.random.choice((0, 1, 30, 60, 200, 100_000, INTEGER_MAX))

    def complete_promise(self) -> c.Command:
        """A completion, often of a promise that somebody waits for."""
        random = self.random
        promise_id = self.promise_id()
        if self.model.callbacks and random.random() < 0.5:
            promise_id = random.choice(self.model.callbacks).promise_id
        return c.CompletePromise(
            promise_id,
            random.choice(ALL_STATES[1:4]),
            self.value(),
            random.choice(KEYS),
            random.random() < 0.4,
            self.fence(),
        )

    def callback(self) -> c.Command:
        """A callback or a subscription."""
        random = self.random
        receiver = random.choice((*ROUTES, {"type": "http", "data": None}, 5))
        if random.random() < 0.4:
            name = random.choice(("s1", "s2", "s:3"))
            return c.CreateSubscription(self.promise_id(), name, self.timeout(), receiver)
        return c.CreateCallback(
            self.promise_id(), self.promise_id(), self.timeout(), receiver, None, self.fence()
        )

    def task_command(self) -> c.Command:
        """Claim, complete, drop, heartbeat."""
        random = self.random
        if random.random() < 0.15:
            return c.HeartbeatTasks(random.choice((*PROCESSES, "nobody")))
        tasks = list(self.model.tasks.values())
        live = [task for task in tasks if not task.is_over]
        task_id, counter = random.choice(("__invoke:none", "__resume:a", "nonsense")), 1
        if tasks and random.random() < 0.97:
            task = random.choice(live if live and random.random() < 0.8 else tasks)
            task_id, counter = task.id, task.counter - random.choice((0, 0, 0, 1))
        kind = random.choice(("claim", "claim", "complete", "drop"))
        if kind == "claim":
            return c.ClaimTask(task_id, counter, random.choice(PROCESSES), self.ttl())
        return (
            c.CompleteTask(task_id, counter) if kind == "complete" else c.DropTask(task_id, counter)
        )

    def read(self) -> c.Command:
        """A read."""
        return c.ReadPromise(self.promise_id())

    def schedule(self) -> c.Command:
        """Something about schedules. They are often deleted, as every run makes a promise."""
        random = self.random
        schedule_id = random.choice(("s1", "s:2"))
        kind = random.choice(
            (*("create",) * 3, "read", "delete", "delete", "pause", "resume", "update")
        )
        if kind == "read":
            return c.ReadSchedule(schedule_id)
        if kind == "pause":
            return c.PauseSchedule(schedule_id)
        if kind == "resume":
            return c.ResumeSchedule(schedule_id, "", random.choice((None, 0, 1, 3)))
        if kind == "update":
            return c.UpdateSchedule(
                schedule_id,
                cron=random.choice((None, *CRONS)),
                promise_id=random.choice((None, *TEMPLATES)),
                promise_timeout=random.choice((None, 50, INTEGER_MAX)),
                description=random.choice((None, "", "other words")),
                tags=random.choice((None, {}, {"x": "2"})),
                promise_param=random.choice((None, self.value())),
                promise_tags=random.choice((None, {}, {"resonate:invoke": "poll://g"})),
            )
        if kind == "delete":
            return c.DeleteSchedule(schedule_id)
        tags = random.choice((None, {"resonate:invoke": "poll://g"}))
        return c.CreateSchedule(
            schedule_id,
            random.choice(CRONS),
            random.choice(TEMPLATES),
            random.choice((0, 50, 10_000, INTEGER_MAX)),
            "words",
            random.choice((None, {"x": "1"})),
            self.value(),
            tags,
            random.choice(KEYS),
        )

    def lock(self) -> c.Command:
        """Something about locks."""
        random = self.random
        resource, execution = random.choice(("r1", "r/2")), random.choice(("e1", "e2"))
        kind = random.choice(("acquire", "acquire", "release", "heartbeat"))
        if kind == "acquire":
            return c.AcquireLock(resource, execution, random.choice(PROCESSES), self.ttl())
        if kind == "release":
            return c.ReleaseLock(resource, execution)
        return c.HeartbeatLocks(random.choice((*PROCESSES, "nobody")))
