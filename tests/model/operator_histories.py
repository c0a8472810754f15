"""Random histories with what operators do among the requests of clients."""

from .histories import CRONS, TEMPLATES, History, is_pending
from .objects import Arguments
from .wire import WATCHED
from .words import INTEGER_MAX

BULK_ACTIONS = (
    *(("cancel", "promises"), ("reject", "promises"), ("resolve", "promises")),
    *(("delete", "promises"), ("delete", "schedules")),
    *(("pause", "schedules"), ("resume", "schedules")),
    ("retry", "tasks"),
)


class OperatorHistory(History):
    """One random run, in which things are deleted and paused, one by one and in bulk."""

    def create_promise(self) -> Arguments:
        """A creation, sometimes for another promise's sake."""
        made = super().create_promise()
        if self.random.random() < 0.15:
            made["tags"]["resonate:origin"] = self.random.choice(("a", "b", "c", "none"))
        return made

    def delete_promise(self) -> Arguments:
        """A deletion, mostly of what has ended."""
        promises = self.reference.promises
        ended = [name for name, one in promises.items() if not is_pending(one)]
        of_others = [name for name in ended if self.reference.origin_of(promises[name])]
        if of_others and self.random.random() < 0.4:
            return {"id": self.random.choice(of_others)}
        if ended and self.random.random() < 0.8:
            return {"id": self.random.choice(ended)}
        return {"id": self.promise_id()}

    def update_schedule(self) -> Arguments:
        """A change of a schedule."""
        random = self.random
        changes: Arguments = {
            "cron": random.choice(CRONS),
            "promiseId": random.choice(TEMPLATES),
            "promiseTimeout": random.choice((50, 10_000, INTEGER_MAX)),
            "promiseParam": self.value(),
            "promiseTags": random.choice(({}, {"resonate:invoke": "poll://g"})),
            "tags": random.choice(({}, {"x": "2"})),
            "description": random.choice(("", "other words")),
        }
        named = random.sample(sorted(changes), random.randint(0, 3))
        return self.read_schedule() | {name: changes[name] for name in named}

    def pause_schedule(self) -> Arguments:
        """A schedule that is to stand still."""
        return self.read_schedule()

    def resume_schedule(self) -> Arguments:
        """A schedule that is to go on."""
        count = self.random.choice((None, 0, 1, 3))
        return self.read_schedule() | self._header(catchUp=count)

    def run_schedule(self) -> Arguments:
        """A schedule that is to make a promise now."""
        return self.read_schedule()

    def run_bulk_job(self) -> Arguments:
        """A bulk job, mostly on few of what there is."""
        random = self.random
        action, subject = random.choice(BULK_ACTIONS)
        pattern = random.choice(("a*", "*b*", "a:b", "s1*", "*:*", "n1*", "*"))
        wanted = {"root" if subject == "tasks" else "id": pattern}
        made: Arguments = {"action": action, "subject": subject, "filter": wanted}
        if subject == "tasks":
            wanted |= random.choice(({}, {"states": "stalled"}))
        if subject == "promises":
            wanted |= random.choice(({}, {"state": "pending"}, {"state": "rejected"}))
        if (action, subject) not in (("delete", "promises"),) and subject == "promises":
            made["value"] = self.value()
        if random.random() < 0.35:
            made["dryRun"] = True
        return made

    def give_task_back(self) -> Arguments:
        """A task that its holder is to lose."""
        return {"id": self.task()["id"]}

    def send_task_now(self) -> Arguments:
        """A task that is to be sent, mostly one whose message could not be."""
        stalled = [task.id for task in self.reference.tasks.values() if task.is_stalled]
        if stalled and self.random.random() < 0.5:
            return {"id": self.random.choice(stalled)}
        return {"id": self.task()["id"]}

    def break_lock(self) -> Arguments:
        """A lock that its holder is to lose."""
        return {"resourceId": self.release_lock()["resourceId"]}

    def list_tasks(self) -> Arguments:
        """All that are not over."""
        return {}

    def list_locks(self) -> Arguments:
        """All that are held."""
        return {}

    def list_waiting(self) -> Arguments:
        """What waits for a promise."""
        return self.read_promise()

    def show_tree(self) -> Arguments:
        """What is below a promise."""
        return self.read_promise()

    def tell_why(self) -> Arguments:
        """Why a promise has not completed, mostly one that has not."""
        pending = [name for name, one in self.reference.promises.items() if is_pending(one)]
        if pending and self.random.random() < 0.8:
            return {"id": self.random.choice(pending)}
        return self.read_promise()

    def send_all_now(self) -> Arguments:
        """All that waits for a group."""
        return {"receiver": self.random.choice(("poll://g", "poll://default", "poll://none"))}

    def count(self) -> Arguments:
        """The counts by state."""
        return {}

    async def compare_all(self) -> None:
        """Compare the counts, too."""
        await super().compare_all()
        await self.ask("list tasks", {})
        await self.ask("list locks", {})
        for promise_id in WATCHED:
            for name in ("list waiting", "show tree", "tell why"):
                await self.ask(name, {"id": promise_id})
        await self.ask("count", {})


__all__ = ["OperatorHistory"]
