"""What operators do, written down a second time: deleting, control of schedules, bulk jobs.

Made from `ui.md` and `spec/envelope.md` 11.9, and as simple as `reference.py`, to which it adds. It
is told which ids live in one shard: what counts on from the tasks that were deleted does so there,
and bulk jobs go through shard after shard.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .cron import next_after_ms
from .objects import Arguments, Json, Task, matches, value
from .reference import STATES_OF_FILTER, Reference
from .words import (
    EXISTS,
    IN_USE,
    NEVER_MS,
    NO_LOCK,
    NO_PROMISE,
    NO_SCHEDULE,
    NO_TASK,
    ORIGIN_PENDING,
    PENDING,
    TASK_STATE,
    Refused,
)

ENDS = {"cancel": "REJECTED_CANCELED", "reject": "REJECTED", "resolve": "RESOLVED"}
STATE_WORDS = {
    "PENDING": "pending",
    "RESOLVED": "resolved",
    "REJECTED": "rejected",
    "REJECTED_CANCELED": "canceled",
    "REJECTED_TIMEDOUT": "timedout",
}
TASK_STATES = ("init", "enqueued", "claimed", "completed", "timedout")
EXAMPLES_COUNT = 20


class About(NamedTuple):
    """What there is about a promise, and which callbacks it has elsewhere."""

    itself: list[Any]
    waits: list[str]


@dataclass
class FullReference(Reference):
    """The whole API, with what operators do."""

    shard_of: Callable[[str], int] = lambda _: 0
    floors: dict[int, int] = field(default_factory=dict)
    held: Json = field(default_factory=dict)
    runs: set[str] = field(default_factory=set)

    # Deleting

    def add_task(self, task: Task) -> None:
        """A new task, which no message to an earlier one of its id fits."""
        old = self.tasks.pop(task.id, None)
        floor = self.floors.get(self.shard_of(task.root), 0)
        task.counter = 1 + (floor if old is None else old.counter)
        super().add_task(task)

    def delete_promise(self, arguments: Arguments) -> tuple[int, None]:
        """204, or why it stays."""
        promise = self.find_promise(arguments["id"])
        if promise is None:
            raise Refused(NO_PROMISE)
        if promise["state"] != "PENDING":
            self.met = "ended"
        refusal = self.refusal_to_delete(promise)
        if refusal is not None:
            raise Refused(refusal)
        self.forget(promise)
        return 20400, None

    def refusal_to_delete(self, promise: Json) -> int | None:
        """Why a promise stays: pending, in use, or made for one that is pending."""
        if promise["state"] == "PENDING":
            return PENDING
        about = [one for one in self.tasks.values() if promise["id"] in (one.root, one.leaf)]
        if not all(task.is_over for task in about):
            return IN_USE
        seen = [promise["id"]]
        while True:
            origin_id = self.origin_of(promise)
            if origin_id in (None, *seen) or origin_id not in self.promises:
                return None
            promise = self.promises[origin_id]
            if promise["state"] == "PENDING":
                return ORIGIN_PENDING
            seen.append(origin_id)

    @staticmethod
    def origin_of(promise: Json) -> Any:
        """The promise that its tags name as the beginning of its lineage."""
        return promise.get("tags", {}).get("resonate:origin")

    def forget(self, promise: Json) -> None:
        """A promise goes, with the tasks of which it is the root."""
        del self.promises[promise["id"]]
        shard = self.shard_of(promise["id"])
        for task in list(self.tasks.values()):
            if task.root == promise["id"]:
                self.floors[shard] = max(self.floors.get(shard, 0), task.counter)
                del self.tasks[task.id]

    # Schedules

    def present_schedule(self, identifier: str) -> Json:
        """A schedule, or 404."""
        schedule = self.find_schedule(identifier)
        if schedule is None:
            raise Refused(NO_SCHEDULE)
        return schedule

    def update_schedule(self, arguments: Arguments) -> tuple[int, Json]:
        """What is named changes; another expression begins to count now."""
        schedule = self.present_schedule(arguments["id"])
        cron = arguments.get("cron")
        if cron and cron != schedule["cron"]:
            following = next_after_ms(cron, self.now)
            schedule["cron"] = cron
            place = self.held if "pausedOn" in schedule else schedule
            name = schedule["id"] if "pausedOn" in schedule else "nextRunTime"
            place[name] = NEVER_MS if following is None else following
        if arguments.get("promiseId"):
            schedule["promiseId"] = arguments["promiseId"]
        if arguments.get("promiseTimeout") is not None:
            schedule["promiseTimeout"] = arguments["promiseTimeout"]
        if arguments.get("promiseParam") is not None:
            schedule["promiseParam"] = value(arguments["promiseParam"])
        if arguments.get("tags") is not None:
            schedule["tags"] = texts(arguments["tags"])
        for name, given in (
            ("description", arguments.get("description")),
            ("promiseTags", arguments.get("promiseTags")),
        ):
            if given is not None:
                schedule.pop(name, None)
                if given:
                    schedule[name] = given if isinstance(given, str) else texts(given)
        return 20000, schedule

    def pause_schedule(self, arguments: Arguments) -> tuple[int, Json]:
        """It stands still since the first time that it was paused."""
        schedule = self.present_schedule(arguments["id"])
        if "pausedOn" not in schedule:
            self.pause(schedule)
        return 20000, schedule

    def pause(self, schedule: Json) -> None:
        """While it stands still, it is shown as one that never runs."""
        schedule["pausedOn"] = self.now
        self.held[schedule["id"]], schedule["nextRunTime"] = schedule["nextRunTime"], NEVER_MS

    def resume(self, schedule: Json) -> None:
        """It goes on where it stood."""
        del schedule["pausedOn"]
        schedule["nextRunTime"] = self.held.pop(schedule["id"])

    def resume_schedule(self, arguments: Arguments) -> tuple[int, Json]:
        """Of what it has missed the last ones count, if it is said how many; else all do."""
        schedule = self.present_schedule(arguments["id"])
        count = arguments.get("catchUp")
        if "pausedOn" in schedule:
            self.resume(schedule)
            if count is not None:
                runs, following = self.missed(schedule)
                kept = runs[max(len(runs) - count, 0) :]
                schedule["nextRunTime"] = kept[0] if kept else following
        return 20000, schedule

    def missed(self, schedule: Json) -> tuple[list[int], int]:
        """The runs of a schedule up to now, and the one after them."""
        runs, time = [], schedule["nextRunTime"]
        while time != NEVER_MS and time <= self.now:
            runs.append(time)
            following = next_after_ms(schedule["cron"], time)
            time = NEVER_MS if following is None else following
        return runs, time

    def run_schedule(self, arguments: Arguments) -> tuple[int, Json]:
        """One promise as if one of its times were now; the schedule stays as it is."""
        schedule = self.present_schedule(arguments["id"])
        made = self.promise_of_run(schedule, self.now)
        if made["id"] in self.promises:
            self.met = "present, made already"
            raise Refused(EXISTS)
        return 20100, self.new_promise(made)

    def promise_of_run(self, schedule: Json, time: int) -> Arguments:
        """As before, and note its id."""
        made = super().promise_of_run(schedule, time)
        self.runs.add(made["id"])
        return made

    # Bulk jobs

    def run_bulk_job(self, arguments: Arguments) -> tuple[int, Json]:
        """One thing done to all that a filter finds, shard after shard, the newest first."""
        subject, action = arguments["subject"], arguments["action"]
        is_dry = arguments.get("dryRun", False)
        self.met = f"{action} {subject}" + ", dry run" * is_dry
        found = self.found_in_bulk(subject, arguments["filter"])
        done: list[Json] = []
        skipped: dict[str, int] = {}
        found.sort(key=lambda one: self.shard_of(one.get("root") or one["id"]))
        for one in found:
            reason = self.reason_to_skip(action, subject, one)
            if reason is None:
                done.append(one)
                if not is_dry:
                    self.act(action, subject, one, arguments)
                    self.pass_time(self.now)  # as after a request that does it
            else:
                skipped[reason] = skipped.get(reason, 0) + 1
        counts = {"total": len(found), "done": len(done), "failed": 0, "skipped": skipped}
        ids = [one["id"] for one in done]
        # Tasks are found in the order of their creation, those of one millisecond in any.
        ids = sorted(ids) if subject == "tasks" else ids[:EXAMPLES_COUNT]
        examples = {"examples": ids} if is_dry else {}
        return 20100, {"state": "finished", **counts, **examples}

    def found_in_bulk(self, subject: str, wanted: Json) -> list[Json]:
        """What a filter finds, the newest first."""
        if subject == "tasks":
            return [
                {"id": task.id, "root": task.root}
                for task in reversed(self.tasks.values())
                if not task.is_over and matches(wanted["root"], task.root)
                if task.is_stalled or "states" not in wanted
            ]
        states = STATES_OF_FILTER[wanted.get("state", "")]
        there = self.promises if subject == "promises" else self.schedules
        return [
            one
            for one in reversed(there.values())
            if matches(wanted.get("id", "*"), one["id"]) and one.get("state", states[0]) in states
        ]

    def reason_to_skip(self, action: str, subject: str, one: Json) -> str | None:
        """Why a job passes over something, if it does."""
        if subject == "promises" and action != "delete":
            return None if one["state"] == "PENDING" else "completed"
        if subject == "promises":
            refusal = self.refusal_to_delete(one)
            reasons = {PENDING: "pending", IN_USE: "inUse", ORIGIN_PENDING: "originPending"}
            return None if refusal is None else reasons[refusal]
        if action == "retry":
            return None if self.tasks[one["id"]].is_stalled else "notWaiting"
        if action == "pause":
            return "paused" if "pausedOn" in one else None
        if action == "resume":
            return None if "pausedOn" in one else "notPaused"
        return None

    def act(self, action: str, subject: str, one: Json, arguments: Arguments) -> None:
        """What a job does to one of them."""
        if action in ENDS:
            one["value"] = value(arguments.get("value"))
            self.end_promise(one, ENDS[action], self.now)
        elif action == "retry":
            self.try_again(one["id"], self.tasks[one["id"]].counter)
        elif subject == "promises":
            self.forget(one)
        elif action == "delete":
            del self.schedules[one["id"]]
        elif action == "pause":
            self.pause(one)
        else:
            self.resume(one)

    # Remedies for what is stuck

    def task_now(self, arguments: Arguments) -> Task:
        """A task as it is, or 404; notes the state that the request meets."""
        task = self.tasks.get(arguments["id"])
        if task is None:
            self.met = "absent"
            raise Refused(NO_TASK)
        self.met = "stalled" if task.is_stalled else task.state
        return task

    def give_task_back(self, arguments: Arguments) -> tuple[int, Json]:
        """Whoever holds it holds it no longer."""
        task = self.task_now(arguments)
        if task.state != "claimed":
            raise Refused(TASK_STATE)
        self.give_out_again(task)
        return 20000, {"id": task.id, "promiseId": task.root}

    def send_task_now(self, arguments: Arguments) -> tuple[int, Json]:
        """What could not be sent is sent again, without waiting."""
        task = self.task_now(arguments)
        if not task.is_stalled:
            raise Refused(TASK_STATE)
        task.stalled = False
        return 20000, {"id": task.id, "promiseId": task.root}

    def break_lock(self, arguments: Arguments) -> tuple[int, None]:
        """Whoever holds it holds it no longer."""
        self.met = "held" if arguments["resourceId"] in self.locks else "free"
        if self.locks.pop(arguments["resourceId"], None) is None:
            raise Refused(NO_LOCK)
        return 20400, None

    # Lists

    def list_tasks(self, arguments: Arguments) -> tuple[int, Json]:
        """All that are not over, by id."""
        assert not arguments
        rows = [
            {
                "id": task.id,
                "kind": "rest",
                "type": task.type,
                "state": "stalled" if task.is_stalled else task.state,
                "promiseId": task.root,
                "counter": task.counter,
                "processId": task.process_id,
            }
            for task in self.tasks.values()
            if not task.is_over
        ]
        return 20000, {"tasks": sorted(rows, key=lambda row: row["id"])}

    def list_locks(self, arguments: Arguments) -> tuple[int, Json]:
        """All that are held, by resource."""
        assert not arguments
        fields = ("resourceId", "executionId", "processId", "expiresAt")
        rows = [{field: lock[field] for field in fields} for lock in self.locks.values()]
        return 20000, {"locks": sorted(rows, key=lambda row: row["resourceId"])}

    def list_waiting(self, arguments: Arguments) -> tuple[int, Json]:
        """The callbacks and subscriptions of a promise."""
        promise = self.find_promise(arguments["id"])
        if promise is None:
            raise Refused(NO_PROMISE)
        kinds = {"resume": "callback", "notify": "subscription"}
        rows = [
            {
                "kind": kinds[one.type],
                "id": identifier,
                "promiseId": one.root if one.type == "resume" else None,
            }
            for identifier, one in self.callbacks.items()
            if one.json["promiseId"] == promise["id"]
        ]
        return 20000, {"waiting": sorted(rows, key=lambda row: (row["kind"], row["id"]))}

    # What is told without being asked for

    def count(self, arguments: Arguments) -> tuple[int, Json]:
        """How many promises and tasks there are in each state."""
        assert not arguments
        states = [one["state"] for one in self.promises.values()]
        tasks = [one.state for one in self.tasks.values()]
        return 20000, {
            "promises": {word: states.count(state) for state, word in STATE_WORDS.items()},
            "tasks": {state: tasks.count(state) for state in TASK_STATES},
        }

    def about(self, identifier: str) -> About:
        """What the feed counts as part of a promise: it, its tasks and what waits for it.

        With it come the promises whose tags name it as their origin.
        """
        ids = {
            one["id"]
            for one in self.promises.values()
            if identifier in (one["id"], self.origin_of(one))
        }
        itself: list[Any] = [dict(self.promises[one]) for one in sorted(ids)]
        itself += sorted(
            (task.id, task.state, task.counter, task.process_id or "")
            for task in self.tasks.values()
            if task.root in ids | {identifier}
        )
        callbacks = self.callbacks.items()
        itself += sorted(name for name, one in callbacks if one.json["promiseId"] in ids)
        waits = sorted(name for name, one in callbacks if one.root in ids | {identifier})
        return About(itself, waits)


def texts(given: Json) -> Json:
    """Tags as they are kept."""
    return {name: text or "" for name, text in given.items()}


__all__ = ["About", "FullReference"]
