"""Transcripts: text files of commands and what they must lead to, to be read by people.

A file is a row of blocks: commands, one a line, then `----`, then the expected output, then an
empty line. Lines with `#` are comments. Every command prints its reply, and below it, indented,
what left the server because of it. Options are `name=value`, flags are bare words; words may be
quoted. Time stands still but for the commands `at`, `clock` and `after-downtime-until`.
"""

import shlex
from collections.abc import Callable

from troth.core import commands as c
from troth.core.deciding import Options
from troth.core.limits import INTEGER_MAX
from troth.core.model import ClaimRequest, Fence, Lock, Promise, PromiseState, Schedule, Task, Value
from troth.core.replies import Reply

from .system import System

COMPLETIONS = {
    "resolve": PromiseState.RESOLVED,
    "reject": PromiseState.REJECTED,
    "cancel": PromiseState.REJECTED_CANCELED,
}
SEARCHES = {
    "pending": (PromiseState.PENDING,),
    "resolved": (PromiseState.RESOLVED,),
    "rejected": (
        *(PromiseState.REJECTED, PromiseState.REJECTED_TIMEDOUT),
        PromiseState.REJECTED_CANCELED,
    ),
    "all": tuple(PromiseState),
}


class Line:
    """One command line: its words, its options and its flags."""

    def __init__(self, text: str) -> None:
        self.name, *rest = shlex.split(text)
        self.options = dict(word.split("=", 1) for word in rest if "=" in word)
        plain = [word for word in rest if "=" not in word]
        self.is_strict = "strict" in plain
        self.words = [word for word in plain if word != "strict"]

    def number(self, name: str, default: int) -> int:
        """An option that is a number; `never` is the largest."""
        text = self.options.get(name)
        if text is None:
            return default
        return INTEGER_MAX if text == "never" else int(text)

    def tags(self, prefix: str = "tag:") -> dict[str, str] | None:
        """Options `tag:name=value`."""
        tags = {
            name.removeprefix(prefix): value
            for name, value in self.options.items()
            if name.startswith(prefix)
        }
        return tags or None

    def value(self) -> Value:
        """Option `data`."""
        return Value(None, self.options.get("data"))

    def fence(self) -> Fence | None:
        """Option `fence=task,counter`."""
        task_id, comma, counter = self.options.get("fence", "").rpartition(",")
        return Fence(task_id, int(counter)) if comma else None


class Transcript:
    """Carries out command lines and says what happened."""

    def __init__(self) -> None:
        self.system = System(1, Options(time_zone="UTC", catch_up_count=3))

    def run(self, text: str) -> str:
        """The output of one line."""
        line = Line(text)
        method = getattr(self, "do_" + line.name.replace("-", "_"), None)
        if method is not None:
            output = method(line)
        elif line.name in COMPLETIONS:
            output = self.complete_promise(line, COMPLETIONS[line.name])
        else:
            output = shown(self.system.ask(COMMANDS[line.name](line)))
        return "\n".join([output, *self.effects()]).strip("\n")

    def effects(self) -> list[str]:
        """What left the server since the last look."""
        system = self.system
        lines = [f"  withdraw {task_id}" for task_id in system.withdrawn]
        for message in system.sent:
            about = f" {message.promise.state}" if message.promise is not None else ""
            counter = message.task.counter
            lines.append(f"  send {message.task.id} {counter} to {message.task.receiver}{about}")
        system.withdrawn.clear()
        system.sent.clear()
        return lines

    def do_at(self, line: Line) -> str:
        """Let time pass until T, every timer on time: `at T`."""
        self.system.let_time_pass(int(line.words[0]))
        return ""

    def do_clock(self, line: Line) -> str:
        """It is T, and no timer has fired yet: what comes next must notice itself: `clock T`."""
        self.system.now = int(line.words[0])
        return ""

    def do_after_downtime_until(self, line: Line) -> str:
        """The server was not running until then: `after-downtime-until T`."""
        self.system.now = int(line.words[0])
        self.system = self.system.restarted()
        self.system.let_time_pass(self.system.now)
        return ""

    def do_sent(self, line: Line) -> str:
        """Delivery reports: `sent TASK COUNTER`; likewise `failed` and `retry`."""
        self.system.report_sent(line.words[0], int(line.words[1]))
        return ""

    def do_failed(self, line: Line) -> str:
        """See do_sent."""
        self.system.report_not_sent(line.words[0], int(line.words[1]))
        return ""

    def do_retry(self, line: Line) -> str:
        """See do_sent."""
        self.system.report_retry(line.words[0], int(line.words[1]))
        return ""

    def do_search(self, line: Line) -> str:
        """`search PATTERN [states=pending|resolved|rejected] [tag:name=value]`."""
        states = SEARCHES[line.options.get("states", "all")]
        found = self.system.search(line.words[0], states, line.tags() or {}, 100, 100)
        return "\n".join(promise_line(one) for one in found) or "nothing"

    def do_tasks(self, _: Line) -> str:
        """All tasks, by id."""
        tasks = sorted(self.system.tasks(), key=lambda one: one.id)
        return "\n".join(f"{task_line(one)} {one.state}" for one in tasks) or "nothing"

    def complete_promise(self, line: Line, state: PromiseState) -> str:
        """`resolve PROMISE [key=] [data=] [strict]`; likewise `reject` and `cancel`."""
        command = c.CompletePromise(
            *(line.words[0], state, line.value(), line.options.get("key")),
            *(line.is_strict, line.fence()),
        )
        return shown(self.system.ask(command))


def create_promise(line: Line) -> c.Command:
    """`create ID [timeout=] [key=] [strict] [data=] [tag:name=value] [claim=PROCESS ttl=]`."""
    process_id = line.options.get("claim")
    claim = ClaimRequest(process_id, line.number("ttl", 0)) if process_id is not None else None
    return c.CreatePromise(
        line.words[0],
        line.number("timeout", INTEGER_MAX),
        line.value(),
        line.tags(),
        line.options.get("key"),
        line.is_strict,
        fence=line.fence(),
        claim=claim,
    )


def create_schedule(line: Line) -> c.Command:
    """`schedule ID CRON promise=TEMPLATE [timeout=] [key=] [promise-tag:name=value]`."""
    schedule_id, cron = line.words
    return c.CreateSchedule(
        *(schedule_id, cron, line.options["promise"], line.number("timeout", 0)),
        promise_tags=line.tags("promise-tag:"),
        idempotency_key=line.options.get("key"),
    )


COMMANDS: dict[str, Callable[[Line], c.Command]] = {
    "create": create_promise,
    "read": lambda line: c.ReadPromise(line.words[0]),
    "callback": lambda line: c.CreateCallback(
        *(line.words[0], line.words[1], line.number("timeout", INTEGER_MAX)),
        *(line.options.get("to", "poll://g"), None, line.fence()),
    ),
    "subscribe": lambda line: c.CreateSubscription(
        *(line.words[0], line.words[1], line.number("timeout", INTEGER_MAX)),
        line.options.get("to", "poll://g"),
    ),
    "claim": lambda line: c.ClaimTask(
        line.words[0], int(line.words[1]), line.words[2], line.number("ttl", INTEGER_MAX)
    ),
    "complete": lambda line: c.CompleteTask(line.words[0], int(line.words[1])),
    "drop": lambda line: c.DropTask(line.words[0], int(line.words[1])),
    "heartbeat": lambda line: c.HeartbeatTasks(line.words[0]),
    "schedule": create_schedule,
    "read-schedule": lambda line: c.ReadSchedule(line.words[0]),
    "delete-schedule": lambda line: c.DeleteSchedule(line.words[0]),
    "acquire": lambda line: c.AcquireLock(
        line.words[0], line.words[1], line.words[2], line.number("ttl", 0)
    ),
    "release": lambda line: c.ReleaseLock(line.words[0], line.words[1]),
    "heartbeat-locks": lambda line: c.HeartbeatLocks(line.words[0]),
}


def shown(reply: Reply) -> str:
    """A reply in one line."""
    parts = [f"{reply.code:d} {reply.code.name.lower().replace('_', ' ')}"]
    if reply.promise is not None:
        parts.append(promise_line(reply.promise))
    if reply.callback is not None:
        parts.append(f"{reply.callback.id} created={reply.callback.created_on}")
    if reply.task is not None:
        parts.append(f"{task_line(reply.task)} {reply.task.state}")
    if reply.schedule is not None:
        parts.append(schedule_line(reply.schedule))
    if reply.lock is not None:
        parts.append(lock_line(reply.lock))
    if reply.claimed is not None:
        root, leaf = reply.claimed.root, reply.claimed.leaf
        parts.append(f"{reply.claimed.kind} root={state_of(root)} leaf={state_of(leaf)}")
    if reply.count:
        parts.append(f"count={reply.count}")
    return " | ".join(parts)


def options(**given: object) -> str:
    """What is set, as ` name=value`."""
    never = {INTEGER_MAX: "never"}
    return "".join(
        f" {name}={never.get(one, one) if isinstance(one, int) else one}"
        for name, one in given.items()
        if one is not None
    )


def promise_line(promise: Promise) -> str:
    """A promise in one line."""
    return f"{promise.id} {promise.state}" + options(
        timeout=promise.timeout,
        created=promise.created_on,
        completed=promise.completed_on,
        key=promise.key_for_create,
        key2=promise.key_for_complete,
        data=promise.param.data,
        value=promise.value.data,
    )


def task_line(task: Task) -> str:
    """A task in one line."""
    return f"{task.id} {task.counter}" + options(
        timeout=task.timeout,
        process=task.process_id,
        created=task.created_on,
        completed=task.completed_on,
    )


def schedule_line(schedule: Schedule) -> str:
    """A schedule in one line."""
    return f"{schedule.id} {schedule.cron!r}" + options(
        last=schedule.last_run_time, next=schedule.next_run_time
    )


def lock_line(lock: Lock) -> str:
    """A lock in one line."""
    return f"{lock.resource_id} {lock.execution_id} {lock.process_id} until={lock.expires_at}"


def state_of(promise: Promise | None) -> str:
    """The promise's state, or that there is none."""
    return "none" if promise is None else promise.state.value
