"""What people ask when something is stuck, written down a second time: trees, reasons, queues.

Made from `ui.md` U1. Of the reasons only those are here that there can be without workers: nobody
listens, and nothing is ever sent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .objects import Arguments, Json, Task
from .operators import FullReference
from .words import NO_PROMISE, Refused

REASONS = (
    *("completed", "circle", "undeliverable", "no-listener", "holder-gone", "no-task"),
    *("delayed", "sleeps", "sent", "sending", "held"),
)
"""Of several the first is told: the one that is least likely to pass without help."""


def group_of(receiver: Any) -> str | None:
    """The group of workers that a task's receiver names; None if it cannot be delivered."""
    if isinstance(receiver, dict):
        group = receiver["data"]["group"]
        assert isinstance(group, str)
        return group
    if receiver == "default":
        return "default"
    if isinstance(receiver, str) and receiver.startswith("poll://"):
        return receiver.removeprefix("poll://").partition("/")[0].rpartition("@")[2]
    return None


@dataclass
class WholeReference(FullReference):
    """The whole API, with the questions of people."""

    # Trees

    def possible_parents(self, promise: Json) -> Iterator[str]:
        """What may be above a promise: the beginnings of its id, then the origin."""
        identifier = promise["id"]
        for end in range(len(identifier) - 1, 0, -1):
            if identifier[end] in ".:":
                yield identifier[:end]
        origin = self.origin_of(promise)
        if origin and origin != identifier:
            yield origin

    def parent_of(self, promise: Json) -> str | None:
        """The first of them that there is."""
        return next((one for one in self.possible_parents(promise) if one in self.promises), None)

    def show_tree(self, arguments: Arguments) -> tuple[int, Json]:
        """Whatever has the promise above it, directly or not.

        Where that is not in its id, its origin is the promise's, or the promise itself.
        """
        root = self.find_promise(arguments["id"])
        if root is None:
            raise Refused(NO_PROMISE)
        origins = {root["id"], self.origin_of(root) or root["id"]}
        beginnings = (root["id"] + ".", root["id"] + ":")
        known = {
            promise["id"]
            for promise in self.promises.values()
            if promise["id"].startswith(beginnings) or self.origin_of(promise) in origins
        }
        rows = []
        for identifier in known | {root["id"]}:
            above = self.path_to(identifier, root["id"], known)
            if above is not None:
                row = {"id": identifier, "parent": above[0] if above else None, "depth": len(above)}
                rows.append({**row, "state": self.promises[identifier]["state"]})
        return 20000, {"calls": sorted(rows, key=lambda row: row["id"])}

    def path_to(self, identifier: str, root_id: str, known: set[str]) -> list[str] | None:
        """What is above a promise up to a root; None if it is not below that."""
        path: list[str] = []
        while identifier != root_id:
            if identifier not in known:
                return None
            parent = self.parent_of(self.promises[identifier])
            if parent is None or parent in path:
                return None
            path.append(parent)
            identifier = parent
        return path

    # Reasons

    def tell_why(self, arguments: Arguments) -> tuple[int, Json]:
        """Why a promise has not completed, and for how many others it waits."""
        promise = self.find_promise(arguments["id"])
        if promise is None:
            raise Refused(NO_PROMISE)
        if promise["state"] != "PENDING":
            return 20000, {"reason": "completed", "awaitsCount": 0}
        waits = self.own_reason(promise) == "no-task"
        count = len(self.awaited_by(promise)) if waits else 0
        found = set(self.reasons(promise, {promise["id"]}))
        # Nothing but others that wait for one another.
        reason = min(found, key=REASONS.index, default="circle")
        return 20000, {"reason": reason, "awaitsCount": count}

    def reasons(self, promise: Json, seen: set[str]) -> Iterator[str]:
        """Why it waits, and why those do that it waits for."""
        reason = self.own_reason(promise)
        awaited = self.awaited_by(promise) if reason == "no-task" else []
        if not awaited:
            yield self.reason_of_parents(promise) if reason == "no-task" else reason
        for name in awaited:
            if name not in seen:
                seen.add(name)
                yield from self.reasons(self.promises[name], seen)

    def awaited_by(self, promise: Json) -> list[str]:
        """The promises whose completion resumes it."""
        return [
            one.json["promiseId"]
            for one in self.callbacks.values()
            if one.type == "resume" and one.root == promise["id"]
        ]

    def own_reason(self, promise: Json) -> str:
        """What its own task says: the one that is nearest to a worker."""
        tasks = [one for one in self.tasks.values() if one.root == promise["id"]]
        live = [one for one in tasks if not one.is_over]
        if live:
            return self.reason_of_task(min(live, key=self.nearness))
        is_sleep = promise.get("tags", {}).get("resonate:timeout") == "true"
        return "sleeps" if is_sleep else "no-task"

    def nearness(self, task: Task) -> int:
        """How near a task is to a worker; of those that are equally near, the oldest counts."""
        if task.is_in_flight:
            return 0 if task.state == "claimed" else 1
        if task.sending:
            return 2
        return 4 if task.not_before else 3

    def reason_of_task(self, task: Task) -> str:
        """What a task waits for."""
        is_deliverable = group_of(task.receiver) is not None
        if task.state == "claimed":
            return "holder-gone" if is_deliverable else "held"
        if task.state == "enqueued":
            return "sent"
        if task.not_before > self.now:
            return "delayed"
        return "no-listener" if is_deliverable else "undeliverable"

    def reason_of_parents(self, promise: Json) -> str:
        """A promise without a task is part of the work above it."""
        while True:
            parent_id = self.parent_of(promise)
            if parent_id is None or self.promises[parent_id]["state"] != "PENDING":
                return "no-task"
            promise = self.promises[parent_id]
            reason = self.own_reason(promise)
            if reason != "no-task":
                return reason

    # Queues

    def send_all_now(self, arguments: Arguments) -> tuple[int, Json]:
        """How much waits for a group. Nobody listens there, so it stays."""
        stalled = [one for one in self.tasks.values() if one.is_stalled]
        groups = [f"poll://{group_of(one.receiver)}" for one in stalled]
        return 20000, {
            "receiver": arguments["receiver"],
            "retried": groups.count(arguments["receiver"]),
        }


__all__ = ["WholeReference"]
