"""Random requests of `POST /` and of the REST API on the same promises, against the simple model.

The model is that of `tests/core` (`WorkflowModel`), and so are the random commands. Here each is
made a request, and its answer compared: status, kind and all that it shows. The server's timers
stand still (`debug.start`) and fire where the history says (`debug.tick`); `debug.snap` shows all
there is, which is compared too.
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

from tests.core.model import PROMISE_FIELDS, View, view
from tests.core.workflow_drive import TARGETS, WorkflowDrive
from tests.http.client import World
from tests.http.envelope.conversation import VERSION, checked_envelope
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.limits import WAITING_LIMIT_COUNT
from troth.core.model import Value
from troth.core.workflows import WorkflowFence
from troth.shards.hashing import shard_of

Json = dict[str, Any]
Row = tuple[str, int]
"""A kind, or a REST request, and the status of its answer."""

NOWHERE: Final = TARGETS[-1]
"""A target that is none."""
YEARLY: Final = "0 0 1 1 *"
SCHEDULES: Final = ("s", "t", "u")
LEASE_KIND: Final = 1
WORLD_SHARDS_COUNT: Final = 4
FENCED: Final = {w.EnsurePromise: "promise.create", w.SettlePromise: "promise.settle"}
GUARD_REFUSALS: Final = (Code.TASK_NOT_FOUND, Code.WORKFLOW_STATE, Code.WORKFLOW_VERSION)


def home(identifier: str) -> int:
    """The shard of a world that an id lives in."""
    return shard_of(identifier, WORLD_SHARDS_COUNT)


class DifferenceError(AssertionError):
    """Server and model do not agree."""


def value_json(value: Value) -> Json:
    """A param or a value, as both APIs spell it."""
    shown = {"headers": value.headers, "data": value.data}
    return {name: one for name, one in shown.items() if one is not None}


def plain(value: Value) -> Value:
    """A value without an empty text, which is none in the REST API."""
    return Value(value.headers, value.data or None)


def promise_json(promise: View) -> Json:
    """A promise of the model, as the protocol shows it."""
    shown = {
        "id": promise["id"],
        "state": promise["state"].lower(),
        "param": value_json(promise["param"]),
        "value": value_json(promise["value"]),
        "tags": dict(promise["tags"] or {}),
        "timeoutAt": promise["timeout"],
        "createdAt": promise["created_on"],
    }
    if promise["state"] != "PENDING":
        shown["settledAt"] = promise["completed_on"]
    return shown


def task_json(task: View) -> Json:
    """A task of the model, as the protocol shows it."""
    return {name: one for name, one in task.items() if one is not None}


def schedule_json(schedule: View) -> Json:
    """A schedule of the model, as the protocol shows it."""
    return {
        "id": schedule["id"],
        "cron": schedule["cron"],
        "promiseId": schedule["promise_id"],
        "promiseTimeout": schedule["promise_timeout"],
        "promiseParam": value_json(schedule["promise_param"]),
        "promiseTags": dict(schedule["promise_tags"] or {}),
        "createdAt": schedule["created_on"],
        "nextRunAt": schedule["next_run_time"],
    }


def creation(command: w.EnsurePromise | w.CreateWorkflow) -> Json:
    """The data of `promise.create`."""
    data = {"id": command.id, "timeoutAt": command.timeout, "param": value_json(command.param)}
    return data if command.tags is None else {**data, "tags": command.tags}


def settling(command: w.SettlePromise | w.FulfillWorkflow) -> Json:
    """The data of `promise.settle`."""
    state = command.state.value.lower()
    return {"id": command.id, "state": state, "value": value_json(command.value)}


def is_malformed(command: c.Command) -> bool:
    """Whether `POST /` refuses the fields of a command (400), whatever there is."""
    fence = getattr(command, "fence", None)
    if fence is not None and fence.id == getattr(command, "id", None):
        return True
    if isinstance(command, w.RegisterAwait):
        return command.awaited == command.awaiter
    if isinstance(command, w.RegisterListener):
        return command.address == NOWHERE
    if not isinstance(command, w.EnsurePromise | w.CreateWorkflow):
        return False
    tags = command.tags or {}
    delay = tags.get("resonate:delay")
    is_late = delay is not None and int(delay) >= command.timeout
    return is_late or tags.get("resonate:target") == NOWHERE


def request(command: c.Command) -> tuple[str, Json]:
    """The kind and the data that ask for a command."""
    match command:
        case w.EnsurePromise(fence=WorkflowFence() as fence):
            action = {"kind": "promise.create", "data": creation(command)}
            return "task.fence", {"id": fence.id, "version": fence.version, "action": action}
        case w.SettlePromise(fence=WorkflowFence() as fence):
            action = {"kind": "promise.settle", "data": settling(command)}
            return "task.fence", {"id": fence.id, "version": fence.version, "action": action}
        case w.EnsurePromise():
            return "promise.create", creation(command)
        case w.SettlePromise():
            return "promise.settle", settling(command)
        case c.ReadPromise():
            return "promise.get", {"id": command.id}
        case w.RegisterAwait():
            data = {"awaited": command.awaited, "awaiter": command.awaiter}
            return "promise.register_callback", data
        case w.RegisterListener():
            data = {"awaited": command.awaited, "address": command.address}
            return "promise.register_listener", data
        case w.CreateWorkflow():
            action = {"data": creation(command)}
            return "task.create", {"pid": command.pid, "ttl": command.ttl, "action": action}
        case w.SuspendWorkflow():
            awaited = [{"data": {"awaited": one, "awaiter": command.id}} for one in command.awaited]
            return "task.suspend", {
                "id": command.id,
                "version": command.version,
                "actions": awaited,
            }
        case w.FulfillWorkflow():
            action = {"data": settling(command)}
            return "task.fulfill", {"id": command.id, "version": command.version, "action": action}
        case w.RenewWorkflows():
            tasks = [{"id": name, "version": version} for name, version in command.tasks]
            return "task.heartbeat", {"pid": command.pid, "tasks": tasks}
        case w.AcquireWorkflow():
            held = {"id": command.id, "version": command.version}
            return "task.acquire", {**held, "pid": command.pid, "ttl": command.ttl}
        case w.ReleaseWorkflow():
            return "task.release", {"id": command.id, "version": command.version}
        case w.EnsureSchedule():
            data = {"id": command.id, "cron": command.cron, "promiseId": command.promise_id}
            more = {"promiseTimeout": command.promise_timeout, "promiseTags": command.promise_tags}
            return "schedule.create", {**data, **more}
    kinds = {
        w.ReadWorkflow: "task.get",
        w.HaltWorkflow: "task.halt",
        w.ContinueWorkflow: "task.continue",
        c.ReadSchedule: "schedule.get",
        c.DeleteSchedule: "schedule.delete",
    }
    return kinds[type(command)], {"id": command.id}  # type: ignore[attr-defined]


def expected_answer(kind: str, command: c.Command, expected: View) -> tuple[int, Any]:
    """The status and the data that the model's answer means; a text stands for any text."""
    code: Code = expected["code"]
    if kind == "task.fence" and code not in GUARD_REFUSALS:
        head = {"status": 200 if code is Code.OK else code.status, "version": VERSION}
        inner = {"promise": promise_json(expected["promise"])} if code is Code.OK else ""
        action = {"kind": FENCED[type(command)], "head": head, "data": inner}
        return 200, {"action": action, "preload": []}
    if code is Code.AWAITED_SETTLED:
        return 300, {"preload": []}
    if code.status >= 400:
        return code.status, ""
    data: dict[str, Any] = {}
    if "schedule" in expected:
        data["schedule"] = schedule_json(expected["schedule"])
    if "workflow" in expected:
        data["task"] = task_json(expected["workflow"])
    if "promise" in expected:
        data["promise"] = promise_json(expected["promise"])
    if kind in ("task.create", "task.acquire"):
        data["preload"] = []
    return 200, data


def comparable(data: Any) -> Any:
    """An answer without the wording of errors, and without a corrId within."""
    if isinstance(data, str):
        return ""
    if isinstance(data, dict) and "action" in data:
        action = data["action"]
        head = {name: one for name, one in action["head"].items() if name != "corrId"}
        return {**data, "action": {**action, "head": head, "data": comparable(action["data"])}}
    return data


class History:
    """One random run against a world with debug operations."""

    def __init__(self, seed: int, world: World) -> None:
        self._drive = WorkflowDrive(seed, WORLD_SHARDS_COUNT, is_lazy=False)
        self._drive.model.is_local = lambda left, right: home(left) == home(right)
        self._drive.model.waiting_limit = WAITING_LIMIT_COUNT
        self._world = world
        self._asked_count = 0
        self.rows: set[Row] = set()
        self.events: Counter[str] = Counter()
        self.said: list[str] = []

    async def run(self, steps_count: int) -> None:
        """Do that many random things. Raises DifferenceError."""
        self._world.clock.time_ms = self._drive.system.now
        await self._say("debug.start", {})
        random = self._drive.random
        for number in range(steps_count):
            chance = random.random()
            if chance < 0.15:
                await self._pass_time()
            elif chance < 0.2:
                await self._search()
            elif chance < 0.25:
                await self._ask(self._about_schedules())
            elif chance < 0.45:
                await self._ask_by_rest()
            else:
                await self._ask(self._command())
            if number % 5 == 0:
                await self._compare()
        await self._compare()

    def _command(self) -> c.Command:
        """A command that `POST /` can ask for."""
        random, drive = self._drive.random, self._drive
        if random.random() < 0.05:
            return c.ReadPromise(drive.promise_id())
        if random.random() < 0.03:
            return w.RegisterListener(drive.promise_id(), NOWHERE)
        if random.random() < 0.03:
            return w.RegisterAwait("a", "a")
        while True:
            command = drive.command()
            if type(command).__module__ == w.__name__ and type(command) is not w.EnsureSchedule:
                return command

    def _about_schedules(self) -> c.Command:
        name = self._drive.random.choice(SCHEDULES)
        tags = {"resonate:target": TARGETS[0]}
        return self._drive.random.choice(
            (
                w.EnsureSchedule(name, YEARLY, "{{.id}}.{{.timestamp}}", 1_000, promise_tags=tags),
                c.ReadSchedule(name),
                c.DeleteSchedule(name),
            )
        )

    # Both sides

    async def _say(self, kind: str, data: Json, corr_id: str = "c") -> tuple[int, Any]:
        envelope = {"kind": kind, "head": {"corrId": corr_id, "version": VERSION}, "data": data}
        self.said.append(f"{self._drive.system.now} {json.dumps(envelope, ensure_ascii=False)}")
        answer = await self._world.send("POST", "/", envelope)
        spoken = checked_envelope(answer.status, answer.body, kind, corr_id)
        return spoken.status, spoken.data

    def _expected(self, command: c.Command) -> View:
        """What the model answers; what other shards are told, they are told at once."""
        self._drive.model.settle(self._drive.system.now)
        self._arrive()
        expected = self._drive.model.answer(command)
        self._arrive()
        return expected

    def _arrive(self) -> None:
        model = self._drive.model
        while model.transit:
            model.arrive(model.transit[0][0])

    async def _ask(self, command: c.Command) -> None:
        kind, data = request(command)
        status, shown = await self._say(kind, data, getattr(command, "claim_id", None) or "")
        if is_malformed(command):
            wanted: tuple[int, Any] = (400, "")
        else:
            wanted = expected_answer(kind, command, self._expected(command))
        if (status, comparable(shown)) != wanted:
            raise DifferenceError(f"{kind}: {status} {shown} instead of {wanted}")
        self.rows.add((kind, status))
        if kind == "task.fence" and status == 200:
            inner = shown["action"]
            self.rows.add((f"task.fence({inner['kind']})", inner["head"]["status"]))

    async def _ask_by_rest(self) -> None:
        """Make, read or complete a promise through the other API."""
        drive = self._drive
        command = drive.random.choice(
            (
                drive.create_promise,
                drive.complete_promise,
                lambda: c.ReadPromise(drive.promise_id()),
            )
        )()
        headers: dict[str, str] = {}
        if isinstance(command, c.CreatePromise):
            command = c.CreatePromise(
                *(command.id, command.timeout, plain(command.param), command.tags),
                *(command.idempotency_key, command.strict),
            )
            method, target = "POST", "/promises"
            body = {**creation_by_rest(command)}
        elif isinstance(command, c.CompletePromise):
            command = c.CompletePromise(
                *(command.id, command.state, plain(command.value)),
                *(command.idempotency_key, command.strict),
            )
            method, target = "PATCH", f"/promises/{quote(command.id, safe='/')}"
            body = {"state": command.state.value, "value": value_json(command.value)}
        else:
            assert isinstance(command, c.ReadPromise)
            method, target, body = "GET", f"/promises/{quote(command.id, safe='/')}", {}
        if isinstance(command, c.CreatePromise | c.CompletePromise):
            headers["Strict"] = str(command.strict).lower()
            if command.idempotency_key is not None:
                headers["Idempotency-Key"] = command.idempotency_key
        self.said.append(f"{drive.system.now} {method} {target} {body} {headers}")
        answer = await self._world.send(method, target, body or None, headers)
        code: Code = self._expected(command)["code"]
        got = answer.code if answer.status >= 400 else answer.status * 100
        if got != int(code):
            raise DifferenceError(f"{method} {target}: {answer.status} {answer.json}, not {code}")
        self.rows.add((f"{method} promise", answer.status))

    async def _search(self) -> None:
        """Search for promises, tasks and schedules, page by page."""
        random, model = self._drive.random, self._drive.model
        model.settle(self._drive.system.now)
        self._arrive()
        limit = random.choice((3, 10, 100))
        state = random.choice((None, "pending", "resolved", "rejected_timedout"))
        tags = random.choice(({}, {"x": "1"}))
        wanted: Iterable[str] = [
            one.id
            for one in model.promises.values()
            if state in (None, one.state.lower()) and tags.items() <= (one.tags or {}).items()
        ]
        await self._search_for("promise", wanted, {"state": state, "tags": tags, "limit": limit})
        state = random.choice((None, "pending", "acquired", "suspended", "halted", "fulfilled"))
        wanted = model.search_workflows(state)
        await self._search_for("task", wanted, {"state": state, "limit": limit})
        await self._search_for("schedule", model.schedules, {"limit": limit})

    async def _search_for(self, kind: str, wanted: Iterable[str], data: Json) -> None:
        found: list[str] = []
        query = data
        while True:
            status, page = await self._say(f"{kind}.search", query)
            assert status == 200, page
            found += [one["id"] for one in page[f"{kind}s"]]
            if "cursor" not in page:
                break
            query = {**data, "cursor": page["cursor"]}
        if sorted(found) != sorted(wanted):
            raise DifferenceError(f"{kind}.search {data}: {found} instead of {list(wanted)}")
        self.rows.add((f"{kind}.search", 200))

    async def _pass_time(self) -> None:
        """Let time pass to a deadline, or a little; everything due happens, in order."""
        drive = self._drive
        random, now = drive.random, drive.system.now
        ahead = sorted({time for time, _, _ in drive.model.deadlines() if time > now} | {now + 1})
        until = random.choice(ahead[:3])
        if until - now > 100_000:
            until = now + random.choice((1, 40, 1_000, 7_000))
        due = {time for time, _, _ in drive.model.deadlines() if now < time <= until} | {until}
        for moment in sorted(due):
            drive.system.now = self._world.clock.time_ms = moment
            drive.model.settle(moment)
            self._arrive()
            await self._say("debug.tick", {"time": moment})
        self.events["time"] += 1

    async def _compare(self) -> None:
        """Compare all that is true, once all that is due has happened."""
        drive = self._drive
        await self._say("debug.tick", {"time": drive.system.now})
        drive.model.settle(drive.system.now)
        self._arrive()
        _, snap = await self._say("debug.snap", {})
        workflows = drive.model.envelope()
        got = {
            "promises": {one["id"]: one for one in snap["promises"]},
            "tasks": {one["id"]: one for one in snap["tasks"]},
            "callbacks": sorted((one["awaited"], one["awaiter"]) for one in snap["callbacks"]),
            "listeners": sorted((one["id"], one["address"]) for one in snap["listeners"]),
            "leases": {
                one["id"]: one["timeout"]
                for one in snap["taskTimeouts"]
                if one["type"] == LEASE_KIND
            },
        }
        tasks = workflows["workflows"]
        expected = {
            "promises": {
                name: promise_json(view(one, PROMISE_FIELDS))
                for name, one in drive.model.promises.items()
            },
            "tasks": {name: task_json(one.shown) for name, one in drive.model.workflows.items()},
            "callbacks": workflows["awaits"],
            "listeners": workflows["listeners"],
            "leases": {name: one["expires_at"] for name, one in tasks.items() if one["expires_at"]},
        }
        for name, one in expected.items():
            if got[name] != one:
                raise DifferenceError(f"{name}: {got[name]} instead of {one}")


def creation_by_rest(command: c.CreatePromise) -> Json:
    """The body of `POST /promises`."""
    body = {"id": command.id, "timeout": command.timeout, "param": value_json(command.param)}
    return body if command.tags is None else {**body, "tags": command.tags}
