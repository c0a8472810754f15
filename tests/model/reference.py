"""The API written down a second time: one object, dicts, loops, the sentences of rest.md.

Made from `spec/rest.md` and `spec/decisions.md` and from nothing in `core/`, whose code it is to be
held against. It knows requests by their names (`wire.py` turns them into HTTP) and answers a code
and a JSON body. There are no shards, no records, no indexes and no timers: `pass_time` looks at
everything and lets happen what is due, the earliest first.

Told from outside is only what depends on others: that a message was delivered, or was not.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from .cron import next_after_ms
from .objects import Answer, Arguments, Callback, Json, Task, escaped, matches, value
from .validation import refuse_invalid
from .words import (
    EXISTS,
    FENCED,
    LOCK_HELD,
    NEVER_MS,
    NO_LOCK,
    NO_PROMISE,
    NO_RECEIVER,
    NO_SCHEDULE,
    NO_TASK,
    SAME_ROOT,
    SCHEDULE_EXISTS,
    TASK_CLAIMED,
    TASK_COUNTER,
    TASK_OVER,
    TASK_STATE,
    Refused,
    plus,
)

REFUSAL_OF_STATE = {"RESOLVED": 40300, "REJECTED": 40301, "REJECTED_CANCELED": 40302}
STATES_OF_FILTER = {
    "": ("PENDING", "RESOLVED", "REJECTED", "REJECTED_CANCELED", "REJECTED_TIMEDOUT"),
    "pending": ("PENDING",),
    "resolved": ("RESOLVED",),
    "rejected": ("REJECTED", "REJECTED_CANCELED", "REJECTED_TIMEDOUT"),
}


def granted(ttl: int | None) -> int:
    """How long a lease lasts that was asked for with this ttl (decisions.md 3)."""
    return max(ttl or 0, 500)


@dataclass
class Reference:
    """The whole API."""

    now: int
    url: str
    claim_timeout_ms: int
    promises: dict[str, Json] = field(default_factory=dict)
    callbacks: dict[str, Callback] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    schedules: dict[str, Json] = field(default_factory=dict)
    locks: dict[str, Json] = field(default_factory=dict)
    met: str = "-"

    # Requests

    def ask(self, name: str, arguments: Arguments) -> Answer:
        """Carry out a request, with all that follows from it at once."""
        self.met = "-"
        try:
            refuse_invalid(name, arguments)
            handler = getattr(self, name.replace(" ", "_"))
            code, body = handler(arguments)
            answer = Answer(code, json.loads(json.dumps(body)), self.met)
        except Refused as refusal:
            answer = Answer(refusal.code, None, self.met)
        self.pass_time(self.now)
        return answer

    def refuse_outdated(self, arguments: Arguments) -> None:
        """rest.md 14.2, fencing: only who holds the task that it names may go on."""
        fence = arguments.get("fence")
        if fence is None:
            return
        task = self.tasks.get(fence[0])
        if task is None or task.state != "claimed" or task.counter != fence[1]:
            self.met = "fence"
            raise Refused(FENCED)

    # Promises

    def find_promise(self, identifier: str) -> Json | None:
        """A promise; notes the state that the request meets."""
        promise = self.promises.get(identifier)
        self.met = "absent" if promise is None else promise["state"]
        return promise

    def create_promise(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 2.2."""
        self.refuse_outdated(arguments)
        promise = self.find_promise(arguments["id"])
        if promise is not None:
            return 20000, self.same_promise(promise, arguments)
        return 20100, self.new_promise(arguments)

    def create_promise_and_task(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 3."""
        self.refuse_outdated(arguments)
        promise = self.find_promise(arguments["id"])
        if promise is not None:
            return 20000, {"promise": self.same_promise(promise, arguments), "task": None}
        if not self.routes(arguments.get("tags") or {}):
            raise Refused(NO_RECEIVER)
        promise = self.new_promise(arguments)
        task = self.tasks["__invoke:" + promise["id"]]
        self.lease(task, arguments["processId"], granted(arguments.get("ttl")))
        return 20100, {"promise": promise, "task": task.json()}

    def same_promise(self, promise: Json, arguments: Arguments) -> Json:
        """The answer to a repeated creation, or 409."""
        strict = arguments.get("strict")
        is_same_key = self.meets_key(arguments, promise.get("idempotencyKeyForCreate"))
        self.met += ", strict" if strict else ""
        if not is_same_key or (strict and promise["state"] != "PENDING"):
            raise Refused(EXISTS)
        return promise

    def meets_key(self, arguments: Arguments, stored: str | None) -> bool:
        """Whether it has the key that was stored: no key is like no other (rest.md 0.6)."""
        is_same = arguments.get("key") is not None and arguments["key"] == stored
        self.met += ", same key" if is_same else ""
        return is_same

    def new_promise(self, arguments: Arguments) -> Json:
        """A promise, and the task that its tag asks for (rest.md 6)."""
        promise: Json = {
            "id": arguments["id"],
            "state": "PENDING",
            "param": value(arguments.get("param")),
            "value": {},
            "timeout": arguments.get("timeout") or 0,
            "createdOn": self.now,
        }
        tags = {key: text or "" for key, text in (arguments.get("tags") or {}).items()}
        if tags:
            promise["tags"] = tags
        if arguments.get("key") is not None:
            promise["idempotencyKeyForCreate"] = arguments["key"]
        self.promises[promise["id"]] = promise
        if self.routes(tags):
            tag = tags["resonate:invoke"]
            task = Task(
                id="__invoke:" + promise["id"],
                type="invoke",
                root=promise["id"],
                leaf=promise["id"],
                receiver=json.loads(tag) if tag.startswith("{") else tag,
                timeout=promise["timeout"],
                created_on=self.now,
            )
            delay = tags.get("resonate:delay", "")
            task.not_before = int(delay) if delay.isdecimal() else 0
            self.add_task(task)
        return promise

    def routes(self, tags: Json) -> bool:
        """Whether a promise with these tags gets a task: the table of rest.md 6."""
        if "resonate:invoke" not in tags:
            return False
        try:
            content = json.loads(tags["resonate:invoke"])
        except ValueError:
            return True
        return (
            isinstance(content, dict)
            and bool(content.get("type"))
            and content.keys() <= {"type", "data"}
        )

    def read_promise(self, arguments: Arguments) -> tuple[int, Json]:
        """200 or 404."""
        promise = self.find_promise(arguments["id"])
        if promise is None:
            raise Refused(NO_PROMISE)
        return 20000, promise

    def complete_promise(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 2.3."""
        self.refuse_outdated(arguments)
        promise = self.find_promise(arguments["id"])
        if promise is None:
            raise Refused(NO_PROMISE)
        state, wanted = promise["state"], arguments["state"].upper()
        if state == "PENDING":
            promise["value"] = value(arguments.get("value"))
            if arguments.get("key") is not None:
                promise["idempotencyKeyForComplete"] = arguments["key"]
            self.end_promise(promise, wanted, self.now)
            return 20100, promise
        strict = arguments.get("strict")
        self.met += ", strict" if strict else ""
        if state == "REJECTED_TIMEDOUT":
            if strict:
                raise Refused(40303)
            return 20000, promise
        self.met += ", same state" if wanted == state else ""
        if not self.meets_key(arguments, promise.get("idempotencyKeyForComplete")):
            raise Refused(REFUSAL_OF_STATE[state])
        if strict and wanted != state:
            raise Refused(REFUSAL_OF_STATE[state])
        return 20000, promise

    def end_promise(self, promise: Json, state: str, time: int) -> None:
        """rest.md 2.4."""
        promise["state"], promise["completedOn"] = state, time
        for task in self.tasks.values():
            if task.root == promise["id"] and task.type != "notify" and not task.is_over:
                task.state, task.completed_on = "completed", self.now
        for identifier in sorted(self.callbacks):
            callback = self.callbacks[identifier]
            if callback.json["promiseId"] == promise["id"]:
                del self.callbacks[identifier]
                task = Task(
                    id=identifier,
                    type=callback.type,
                    root=callback.root,
                    leaf=promise["id"],
                    receiver=callback.receiver,
                    timeout=callback.json["timeout"],
                    created_on=self.now,
                )
                self.add_task(task)

    def add_task(self, task: Task) -> None:
        """A new task."""
        self.tasks[task.id] = task

    def create_callback(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 4.2."""
        root, leaf = arguments["rootPromiseId"], arguments["promiseId"]
        if root == leaf:
            raise Refused(SAME_ROOT)
        self.refuse_outdated(arguments)
        return self.wait("resume", f"__resume:{escaped(root)}:{leaf}", root, arguments)

    def create_subscription(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 4.2."""
        promise_id = arguments["promiseId"]
        identifier = f"__notify:{escaped(promise_id)}:{arguments['id']}"
        return self.wait("notify", identifier, promise_id, arguments)

    def wait(self, kind: str, identifier: str, root: str, arguments: Arguments) -> tuple[int, Json]:
        """Note who waits, once, and only while there is something to wait for."""
        promise = self.find_promise(arguments["promiseId"])
        if promise is None:
            raise Refused(NO_PROMISE)
        if identifier in self.callbacks:
            self.met = "waiting"
        if promise["state"] != "PENDING" or identifier in self.callbacks:
            return 20000, {"callback": None, "promise": promise}
        made = {
            "id": identifier,
            "promiseId": promise["id"],
            "rootPromiseId": root,
            "timeout": arguments.get("timeout") or 0,
            "createdOn": self.now,
        }
        self.callbacks[identifier] = Callback(kind, root, arguments["recv"], made)
        return 20100, {"callback": made, "promise": promise}

    # Tasks

    def find_task(self, arguments: Arguments) -> Task:
        """A task, or 404; notes the state that the request meets."""
        task = self.tasks.get(arguments["id"])
        self.met = "absent" if task is None else task.state
        if task is None:
            raise Refused(NO_TASK)
        self.met += "" if task.counter == arguments["counter"] else ", other counter"
        return task

    def lease(self, task: Task, process_id: str, ttl: int) -> None:
        """Let a process have a task for some time."""
        task.state, task.process_id, task.ttl = "claimed", process_id, ttl
        task.expires_at = plus(self.now, ttl)

    def claim_task(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 5.6."""
        task = self.find_task(arguments)
        if task.state == "claimed":
            raise Refused(TASK_CLAIMED)
        if task.is_over:
            raise Refused(TASK_OVER)
        if task.counter != arguments["counter"]:
            raise Refused(TASK_COUNTER)
        self.lease(task, arguments["processId"], granted(arguments.get("ttl")))
        promises = {"root": task.root} | ({"leaf": task.leaf} if task.type == "resume" else {})
        shown = {
            name: {
                "id": identifier,
                "href": f"{self.url}/promises/{identifier}",
                "data": self.promises.get(identifier),
            }
            for name, identifier in promises.items()
        }
        return 20100, {"promises": shown, "type": task.type}

    def complete_task(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 5.7."""
        task = self.find_task(arguments)
        if task.is_over:
            return 20000, task.json()
        if task.state != "claimed":
            raise Refused(TASK_STATE)
        if task.counter != arguments["counter"]:
            raise Refused(TASK_COUNTER)
        task.state, task.completed_on, task.process_id = "completed", self.now, None
        return 20100, task.json()

    def drop_task(self, arguments: Arguments) -> tuple[int, None]:
        """rest.md 14.2."""
        task = self.find_task(arguments)
        if task.state != "claimed":
            return 20000, None
        if task.counter != arguments["counter"]:
            raise Refused(TASK_COUNTER)
        self.give_out_again(task)
        return 20100, None

    def give_out_again(self, task: Task) -> None:
        """Back to the start, for somebody else."""
        task.state, task.process_id, task.counter = "init", None, task.counter + 1
        task.stalled = task.sending = False

    def heartbeat_tasks(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 5.8."""
        held = [
            task
            for task in self.tasks.values()
            if task.state == "claimed" and task.process_id == arguments["processId"]
        ]
        others = [task for task in self.tasks.values() if task.state == "claimed"]
        self.met = self.whose(len(held), len(others) - len(held))
        for task in held:
            task.expires_at = plus(self.now, task.ttl)
        return 20000, {"tasksAffected": len(held)}

    @staticmethod
    def whose(own_count: int, others_count: int) -> str:
        """Whose leases a heartbeat meets."""
        return " and ".join(["own"] * bool(own_count) + ["others'"] * bool(others_count)) or "none"

    # Messages

    def delivered(self, task_id: str, counter: int) -> None:
        """A message has reached its receiver (rest.md 5.2)."""
        task = self.tasks[task_id]
        if task.state == "init" and task.counter == counter and task.sending:
            task.sending = False
            if task.type == "notify":
                task.state = "completed"
            else:
                task.state = "enqueued"
                task.expires_at = plus(self.now, self.claim_timeout_ms)
        self.pass_time(self.now)

    def not_delivered(self, task_id: str, counter: int) -> None:
        """A message has not; it steps aside (decisions.md: it holds nobody else back)."""
        task = self.tasks[task_id]
        if task.state == "init" and task.counter == counter and task.sending:
            task.sending, task.stalled = False, True
        self.pass_time(self.now)

    def try_again(self, task_id: str, counter: int) -> None:
        """The back-off of a message is over."""
        task = self.tasks[task_id]
        if task.counter == counter:
            task.stalled = False
        self.pass_time(self.now)

    def under_way(self) -> dict[tuple[str, int], Json]:
        """The messages that are to be delivered now, by task and counter."""
        return {
            (task.id, task.counter): self.message(task)
            for task in self.tasks.values()
            if task.sending
        }

    def message(self, task: Task) -> Json:
        """rest.md 7.2."""
        if task.type == "notify":
            return {"type": "notify", "promise": self.promises[task.root]}
        place = f"{task.id}/{task.counter}"
        links = {
            verb: f"{self.url}/tasks/{verb}/{place}" for verb in ("claim", "complete", "heartbeat")
        }
        return {"type": task.type, "task": task.json(), "href": links | {"base": self.url}}

    def send(self) -> None:
        """rest.md 5.3, without passes: of each root one at a time, the oldest that may go."""
        waiting = []
        for task in self.tasks.values():
            may_go = task.state == "init" and not task.stalled
            if may_go and task.timeout > self.now and task.not_before <= self.now:
                waiting.append(task)
            else:
                task.sending = False
        for task in waiting:
            # What is under way already stays so, even if a client claims another task of the root.
            task.sending |= task.type == "notify" or not any(
                other.is_in_flight or other.sending
                for other in self.tasks.values()
                if other.root == task.root and other.type != "notify" and other is not task
            )

    # Schedules

    def find_schedule(self, identifier: str) -> Json | None:
        """A schedule; notes whether there is one."""
        schedule = self.schedules.get(identifier)
        self.met = "absent" if schedule is None else "present"
        return schedule

    def create_schedule(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 8.2."""
        schedule = self.find_schedule(arguments["id"])
        if schedule is not None:
            if not self.meets_key(arguments, schedule.get("idempotencyKey")):
                raise Refused(SCHEDULE_EXISTS)
            return 20000, schedule
        next_run_time = next_after_ms(arguments["cron"], self.now)
        schedule = {
            "id": arguments["id"],
            "cron": arguments["cron"],
            "tags": arguments.get("tags") or {},
            "promiseId": arguments["promiseId"],
            "promiseTimeout": arguments.get("promiseTimeout") or 0,
            "promiseParam": value(arguments.get("promiseParam")),
            "nextRunTime": NEVER_MS if next_run_time is None else next_run_time,
            "createdOn": self.now,
        }
        for name, given in (
            ("description", arguments.get("description")),
            ("promiseTags", arguments.get("promiseTags")),
        ):
            if given:
                schedule[name] = given
        if arguments.get("key") is not None:
            schedule["idempotencyKey"] = arguments["key"]
        self.schedules[schedule["id"]] = schedule
        return 20100, schedule

    def read_schedule(self, arguments: Arguments) -> tuple[int, Json]:
        """200 or 404."""
        schedule = self.find_schedule(arguments["id"])
        if schedule is None:
            raise Refused(NO_SCHEDULE)
        return 20000, schedule

    def delete_schedule(self, arguments: Arguments) -> tuple[int, None]:
        """204 or 404."""
        if self.find_schedule(arguments["id"]) is None:
            raise Refused(NO_SCHEDULE)
        del self.schedules[arguments["id"]]
        return 20400, None

    def fire_schedule(self, schedule: Json) -> None:
        """One run (rest.md 8.3)."""
        time = schedule["nextRunTime"]
        following = next_after_ms(schedule["cron"], time)
        schedule["lastRunTime"] = time
        schedule["nextRunTime"] = NEVER_MS if following is None else following
        made = self.promise_of_run(schedule, time)
        if made["id"] not in self.promises:
            self.new_promise(made)

    def promise_of_run(self, schedule: Json, time: int) -> Arguments:
        """The promise that a schedule makes at a time."""
        identifier = schedule["promiseId"].replace("{{.id}}", schedule["id"])
        identifier = identifier.replace("{{.timestamp}}", str(time))
        tags = dict(schedule.get("promiseTags", {}))
        tags |= {"resonate:schedule": schedule["id"], "resonate:invocation": "true"}
        timeout = plus(time, schedule["promiseTimeout"])
        param = schedule["promiseParam"]
        return {"id": identifier, "timeout": timeout, "param": param, "tags": tags}

    # Locks

    def find_lock(self, arguments: Arguments) -> Json | None:
        """A lock; notes whose it is."""
        lock = self.locks.get(arguments["resourceId"])
        if lock is None:
            self.met = "free"
        else:
            self.met = "own" if lock["executionId"] == arguments["executionId"] else "other's"
        return lock

    def acquire_lock(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 9."""
        self.find_lock(arguments)
        if self.met == "other's":
            raise Refused(LOCK_HELD)
        ttl = arguments.get("ttl")
        ttl = arguments.get("expiryInMilliseconds") if ttl is None else ttl
        lock = {name: arguments[name] for name in ("resourceId", "executionId", "processId")}
        end = plus(self.now, granted(ttl))
        self.locks[lock["resourceId"]] = lock | {"ttl": ttl or 0, "expiresAt": end}
        return 20100, self.locks[lock["resourceId"]]

    def release_lock(self, arguments: Arguments) -> tuple[int, None]:
        """rest.md 9."""
        self.find_lock(arguments)
        if self.met != "own":
            raise Refused(NO_LOCK)
        del self.locks[arguments["resourceId"]]
        return 20400, None

    def heartbeat_locks(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 9."""
        held = [lock for lock in self.locks.values() if lock["processId"] == arguments["processId"]]
        self.met = self.whose(len(held), len(self.locks) - len(held))
        for lock in held:
            lock["expiresAt"] = plus(self.now, granted(lock["ttl"]))
        return 20000, {"locksAffected": len(held)}

    # Search

    def search_promises(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 10: all that match, newest first; `wire.py` collects the pages."""
        states = STATES_OF_FILTER[(arguments.get("state") or "").lower()]
        wanted = (arguments.get("tags") or {}).items()
        return 20000, {
            "promises": [
                promise
                for promise in reversed(self.promises.values())
                if matches(arguments["id"], promise["id"])
                and promise["state"] in states
                and wanted <= promise.get("tags", {}).items()
            ]
        }

    def search_schedules(self, arguments: Arguments) -> tuple[int, Json]:
        """rest.md 10.4 and decisions.md: whole objects."""
        wanted = (arguments.get("tags") or {}).items()
        return 20000, {
            "schedules": [
                schedule
                for schedule in reversed(self.schedules.values())
                if matches(arguments["id"], schedule["id"]) and wanted <= schedule["tags"].items()
            ]
        }

    # Time

    def deadlines(self) -> Iterator[tuple[int, int, str]]:
        """Everything that happens by itself: its time, its rank among equal times, and whose."""
        for promise in self.promises.values():
            if promise["state"] == "PENDING":
                yield promise["timeout"], 0, promise["id"]
        for task in self.tasks.values():
            if not task.is_over:
                yield task.timeout, 1, task.id
            if task.is_in_flight:
                yield task.expires_at, 1, task.id
            if task.state == "init" and not task.sending:
                yield max(task.not_before, task.created_on), 4, task.id
        for lock in self.locks.values():
            yield lock["expiresAt"], 2, lock["resourceId"]
        for schedule in self.schedules.values():
            if schedule["nextRunTime"] != NEVER_MS:
                yield schedule["nextRunTime"], 3, schedule["id"]

    def next_deadline(self) -> int | None:
        """When something happens by itself next."""
        return min((time for time, _, _ in self.deadlines() if time > self.now), default=None)

    def pass_time(self, now: int) -> None:
        """Let time pass until `now`, at most to the next deadline, and then send what may go."""
        self.now = now
        while due := [one for one in self.deadlines() if one[0] <= now and one[1] < 4]:
            time, rank, identifier = min(due)
            if rank == 0:
                promise = self.promises[identifier]
                is_timer = promise.get("tags", {}).get("resonate:timeout") == "true"
                self.end_promise(promise, "RESOLVED" if is_timer else "REJECTED_TIMEDOUT", time)
            elif rank == 1:
                self.end_lease(self.tasks[identifier], time)
            elif rank == 2:
                del self.locks[identifier]
            else:
                self.fire_schedule(self.schedules[identifier])
        self.send()

    def end_lease(self, task: Task, time: int) -> None:
        """The timeout of a task, or the end of a lease (rest.md 5.2)."""
        if task.timeout <= time:
            task.state, task.completed_on, task.process_id = "timedout", task.timeout, None
        else:
            self.give_out_again(task)
