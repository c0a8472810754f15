"""Random histories: requests, time, reports; one seed makes one, for server and reference.

Ids come from small sets, so that requests meet each other. Time moves from deadline to deadline, or
to the millisecond before one. No two promises time out in the same millisecond, nor in that of a
schedule's run: whose effects come first is up to the server then.
"""

from collections import Counter
from random import Random
from typing import Any, ClassVar

from .objects import Arguments, Json
from .pair import Pair
from .validation import FIELDS, OUTCOMES, WRONG_CRONS, WRONG_TEMPLATES
from .wire import START_MS, Wire
from .words import INTEGER_MAX

PROMISE_IDS = ("a", "b", "c", "a:b", "b:c", "a%3Ab", "p/q r", "ünï⏰", ":", "task", "/x//")
PROCESSES = ("w1", "w2")
KEYS = (None, "", "k1", "k2")
ROUTED = ("poll://g", "default", "", '{"type":"poll","data":{"group":"g"}}')
UNROUTED = ("7", '"quoted"', "[]", '{"type":""}', '{"type":"poll","more":1}')
CRONS = ("* * * * * *", "@every 3s", "*/2 * * * * *", "0 0 31 2 *", "5,7-9 * * * * ?", "0 12 1 * 1")
TEMPLATES = ("{{.id}}.{{.timestamp}}", "{{.timestamp}}:{{.id}}", "of/{{.id}}")
WRONG: tuple[Any, ...] = (
    None,
    "",
    0,
    -1,
    1.5,
    "x",
    [],
    {},
    True,
    2**63,
    {"data": "no base64!"},
    {"t": 1},
)

Seen = Counter[tuple[str, str, int]]


class History(Pair):
    """One random run, compared step by step."""

    LEFT_OUT: ClassVar[frozenset[str]] = frozenset()
    """Requests that are not made."""

    def __init__(self, seed: int, wire: Wire) -> None:
        super().__init__(wire)
        self.random = Random(seed)
        self.seen: Seen = Counter()
        self.events: Counter[str] = Counter()
        self._timeouts: set[int] = set()
        self._sent: list[tuple[str, Arguments]] = []

    async def run(self, step_count: int) -> None:
        """Do that many things, and compare after each."""
        for _ in range(step_count):
            chance = self.random.random()
            if chance < 0.15:
                await self.pass_time()
            elif chance < 0.3:
                await self.report()
            else:
                await self.request()
        await self.compare_all()

    # Time and messages

    async def pass_time(self) -> None:
        """Move to the next deadline, or towards it."""
        now, following = self.reference.now, self.reference.next_deadline()
        limit = now + self.random.choice((1, 5, 10, 20, 40, 100, 1_500))
        while following is not None and following <= limit:
            if self.random.random() < 0.2:
                limit = following - 1
                break
            await self._until(following)
            following = self.reference.next_deadline()
        await self._until(max(limit, self.reference.now))

    async def _until(self, time: int) -> None:
        await self.do(("time", time))
        self.events["time"] += 1

    async def report(self) -> None:
        """Say of a message what became of it; sometimes of one that nobody knows any more."""
        random, delivery = self.random, self.wire.delivery
        kind = random.choice(("delivered", "delivered", "not delivered", "try again", "outdated"))
        choices: list[tuple[str, int]] = sorted(self.reference.under_way())
        if kind == "try again":
            choices = sorted(delivery.stalled.items())
        elif kind == "outdated":
            choices = [
                (task.id, task.counter - 1)
                for task in self.reference.tasks.values()
                if task.counter > 1
            ]
        if not choices:
            return
        subject = random.choice(choices)
        verb = {"outdated": "delivered"}.get(kind, kind).replace(" ", "_")
        await self.do((verb, *subject))
        self.events[kind] += 1

    # Requests

    async def request(self) -> None:
        """Make a random request, sometimes a wrong one."""
        weights: dict[str, float] = {
            "create promise": 4,
            "complete promise": 4,
            "create callback": 3,
        }
        weights |= {"create subscription": 2, "claim task": 9, "complete task": 3, "drop task": 2}
        weights |= {"create promise and task": 4, "acquire lock": 5}
        weights |= {"heartbeat tasks": 3, "heartbeat locks": 3, "run bulk job": 2}
        weights |= {"delete promise": 2, "count": 0.3}
        weights |= dict.fromkeys(("list tasks", "list locks", "list waiting"), 0.3)
        weights |= {"send all now": 0.5}
        names = [one for one in FIELDS if one not in self.LEFT_OUT]
        (name,) = self.random.choices(names, [weights.get(one, 1) for one in names])
        arguments = getattr(self, name.replace(" ", "_"))()
        if self._sent and self.random.random() < 0.2:
            name, arguments = self.again()
        elif self.random.random() < 0.08:
            self.spoil(name, arguments)
        await self.ask(name, arguments)

    def again(self) -> tuple[str, Arguments]:
        """An earlier request once more, as by a client that retries; perhaps with a change."""
        name, arguments = self.random.choice(self._sent)
        changed = dict(arguments)
        if self.random.random() < 0.6 and not name.startswith("create s"):
            changed["strict"] = self.random.choice((True, False))
        if "state" in changed and self.random.random() < 0.4:
            changed["state"] = self.random.choice(OUTCOMES)
        if self.random.random() < 0.2:
            changed["key"] = self.random.choice(("", "k1", "k2"))
        return name, changed

    async def ask(self, name: str, arguments: Arguments) -> None:
        """Ask both and compare the answers."""
        outcome = await self.do(("ask", name, arguments))
        assert outcome is not None
        self.seen[name, *outcome] += 1
        if name.startswith(("create", "complete p")) and outcome[1] < 30000:
            self._sent.append((name, arguments))

    async def compare_all(self) -> None:
        """Compare everything that can be read."""
        await self.ask("search promises", {"id": "*"})
        await self.ask("search schedules", {"id": "*"})
        for task in list(self.reference.tasks.values()):
            if task.is_over:
                await self.ask("complete task", {"id": task.id, "counter": task.counter})

    def spoil(self, name: str, arguments: Arguments) -> None:
        """Make one thing of a request wrong, or odd."""
        fields = [field for field in FIELDS[name] if FIELDS[name][field].rstrip("*") != "any"]
        if name.startswith("search"):
            arguments["limit"] = self.random.choice((-1, 101))
        elif not fields or self.random.random() < 0.15:
            if name in ("create promise", "complete promise"):
                arguments["strict"] = "maybe"
        else:
            arguments[self.random.choice(fields)] = self.random.choice(WRONG)
        if arguments.get("cron") and (arguments["cron"] == "x" or self.random.random() < 0.5):
            arguments["cron"] = self.random.choice(WRONG_CRONS)
        if name == "create schedule" and self.random.random() < 0.3:
            arguments["promiseId"] = self.random.choice(WRONG_TEMPLATES)

    def promise_id(self) -> str:
        """An id that often exists."""
        pending: list[str] = [
            one["id"] for one in self.reference.promises.values() if is_pending(one)
        ]
        if pending and self.random.random() < 0.5:
            return self.random.choice(pending)
        return self.random.choice((*PROMISE_IDS * 2, f"n{self.random.randint(0, 99)}"))

    def timeout(self) -> int:
        """A deadline, often near."""
        now = self.reference.now
        if self.random.random() < 0.7:
            return self.random.choice((INTEGER_MAX, START_MS * 2))
        timeout = self.random.choice((0, now - 5, now, now + 1, now + 40, now + 300, now + 5_000))
        while timeout in self._timeouts or timeout % 1_000 == 0:
            timeout += 1
        self._timeouts.add(timeout)
        return timeout

    def ttl(self) -> int:
        """A lease."""
        return self.random.choice((0, 1, 499, 501, 560, 600, 650, 700, 5_000, INTEGER_MAX))

    def value(self) -> Json:
        """A param or value."""
        return self.random.choice(({}, {"headers": {"h": "1"}, "data": "aGk="}, {"data": ""}))

    def _header(self, **given: Any) -> Arguments:
        return {key: one for key, one in given.items() if one is not None}

    def fence(self) -> tuple[str, int] | None:
        """Mostly none; else a task that is held, or is not."""
        tasks = list(self.reference.tasks.values())
        if self.random.random() < 0.8 or not tasks:
            return None
        task = self.random.choice(tasks)
        return task.id, task.counter - self.random.choice((0, 0, 1))

    def create_promise(self) -> Arguments:
        """A creation."""
        random, tags = self.random, {}
        if random.random() < 0.6:
            tags["resonate:invoke"] = random.choice((*ROUTED, random.choice(UNROUTED)))
        if random.random() < 0.2:
            tags["resonate:timeout"] = random.choice(("true", "false"))
        if random.random() < 0.2:
            near = self.reference.now + random.choice((-5, 10, 60))
            tags["resonate:delay"] = random.choice((str(near), "soon"))
        if random.random() < 0.3:
            tags["x"] = random.choice("12")
        is_new = random.random() < 0.4
        return {
            "id": f"n{random.randint(0, 999)}" if is_new else self.promise_id(),
            "timeout": self.timeout(),
            "param": self.value(),
            "tags": tags,
            **self._header(
                key=random.choice(KEYS), strict=random.choice((None, True)), fence=self.fence()
            ),
        }

    def create_promise_and_task(self) -> Arguments:
        """A creation with a lease."""
        made = self.create_promise()
        return made | {"processId": self.random.choice(PROCESSES), "ttl": self.ttl()}

    def read_promise(self) -> Arguments:
        """A read."""
        existing = list(self.reference.promises) if self.random.random() < 0.7 else []
        return {"id": self.random.choice(existing) if existing else self.promise_id()}

    def complete_promise(self) -> Arguments:
        """A completion, often of a promise that somebody waits for."""
        random, identifier = self.random, self.promise_id()
        waited_for = [one.json["promiseId"] for one in self.reference.callbacks.values()]
        if waited_for and random.random() < 0.5:
            identifier = random.choice(waited_for)
        ended = [name for name, one in self.reference.promises.items() if not is_pending(one)]
        if ended and random.random() < 0.25:
            identifier = random.choice(ended)
        return {
            "id": identifier,
            "state": random.choice(("RESOLVED", "rejected", "REJECTED_CANCELED")),
            "value": self.value(),
            **self._header(
                key=random.choice(KEYS),
                strict=random.choice((None, None, True)),
                fence=self.fence(),
            ),
        }

    def create_callback(self) -> Arguments:
        """A callback."""
        return {
            "id": "unused",
            "promiseId": self.promise_id(),
            "rootPromiseId": self.promise_id(),
            "timeout": self.timeout(),
            "recv": self.random.choice((*ROUTED[:2], {"type": "poll", "data": {"group": "g"}}, 5)),
            **self._header(fence=self.fence()),
        }

    def create_subscription(self) -> Arguments:
        """A subscription."""
        return {
            "id": self.random.choice(("s1", "s2", "s:3")),
            "promiseId": self.promise_id(),
            "timeout": self.timeout(),
            "recv": "poll://g/x",
        }

    def task(self) -> Arguments:
        """A task, mostly one that exists and with the right counter."""
        random, tasks = self.random, list(self.reference.tasks.values())
        live = [task for task in tasks if not task.is_over]
        if not tasks or random.random() < 0.03:
            name = random.choice(("__invoke:none", "__resume:a", "nonsense"))
            return {"id": name, "counter": 1}
        late = [task for task in tasks if task.state == "timedout"]
        if late and random.random() < 0.1:
            live = late
        task = random.choice(live if live and random.random() < 0.9 else tasks)
        return {"id": task.id, "counter": task.counter + random.choice((0, 0, 0, 0, 1, -1))}

    def claim_task(self) -> Arguments:
        """A claim."""
        return self.task() | {"processId": self.random.choice(PROCESSES), "ttl": self.ttl()}

    def complete_task(self) -> Arguments:
        """The end of a task."""
        return self.task()

    def drop_task(self) -> Arguments:
        """A task given back."""
        return self.task()

    def heartbeat_tasks(self) -> Arguments:
        """A heartbeat."""
        return {"processId": self.random.choice((*PROCESSES, "nobody"))}

    def create_schedule(self) -> Arguments:
        """A schedule."""
        random = self.random
        return {
            "id": random.choice(("s1", "s:2")),
            "cron": random.choice(CRONS),
            "promiseId": random.choice(TEMPLATES),
            "promiseTimeout": random.choice((0, 50, 10_000, INTEGER_MAX)),
            "promiseParam": self.value(),
            "promiseTags": random.choice(({}, {"resonate:invoke": "poll://g", "x": "1"})),
            "tags": random.choice(({}, {"x": "1"})),
            "description": random.choice(("", "words")),
            **self._header(key=random.choice(KEYS)),
        }

    def read_schedule(self) -> Arguments:
        """A read."""
        return {"id": self.random.choice(("s1", "s:2"))}

    delete_schedule = read_schedule

    def acquire_lock(self) -> Arguments:
        """A lock."""
        named = self.random.choice(("ttl", "ttl", "expiryInMilliseconds"))
        return self.release_lock() | {
            "processId": self.random.choice(PROCESSES),
            named: self.ttl(),
        }

    def release_lock(self) -> Arguments:
        """A lock given back."""
        random = self.random
        return {
            "resourceId": random.choice(("r1", "r/2", "r3", "r4")),
            "executionId": random.choice(("e1", "e2", "e3")),
        }

    heartbeat_locks = heartbeat_tasks

    def search_promises(self) -> Arguments:
        """A search."""
        random = self.random
        return {
            "id": random.choice(("*", "a*", "*b*", "a:b", "*:*", "s1.*", "nothing", "n_", "A")),
            **self._header(
                state=random.choice((None, None, "pending", "Resolved", "rejected")),
                limit=random.choice((None, 0, 1, 2, 5)),
                tags=random.choice((None, None, {"x": "1"}, {"resonate:invoke": "poll://g"})),
            ),
        }

    def search_schedules(self) -> Arguments:
        """A search."""
        made = self.search_promises()
        return {key: made[key] for key in ("id", "limit", "tags") if key in made}


def is_pending(promise: Json) -> bool:
    """Whether it has not ended."""
    return bool(promise["state"] == "PENDING")


__all__ = ["History", "Seen"]
