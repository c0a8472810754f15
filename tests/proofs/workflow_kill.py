"""Proof: `kill -9` in the middle of workflows of the envelope protocol loses and doubles nothing.

    python -m tests.proofs.workflow_kill --rounds 20 --seed 1

Several workers carry out workflows, each with steps of its own (`fence`), waits for other promises
(`suspend`), and an end (`fulfill`). The server is killed at random moments. Afterwards everything
must be as far as it was acknowledged, or one step further: the step whose answer was lost. Then
each worker asks for that step again, as a client would, must be answered as the protocol says, and
goes on. In the end each workflow has its own value, its children theirs, each settled once, and
every task was claimed exactly as often as its worker was told.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.http.envelope.conversation import VERSION, unspeakable

from .kill import ARGUMENTS, Victim
from .support import FAR_MS, NO_ANSWER, Client, search_all

WORKERS_COUNT: Final = 6
TTL_MS: Final = 600_000
"""No lease ends in a round: a claim that was forgotten would be seen as one too few."""
JOIN_TIMEOUT_S: Final = 30.0
ANSWER_TIMEOUT_S: Final = 30.0
TARGET: Final = "poll://any@nobody"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a workflow. `again` are the statuses it may have when it is asked again after
    its answer was lost; `becomes` is what must be true once it was carried out."""

    kind: str
    data: Json
    becomes: Json
    again: tuple[int, ...] = (200,)


@dataclass(slots=True)
class Workflow:
    """A workflow, how far it is, and what must be true of it.

    `done` are the steps that were acknowledged. `doubt` is the step that was under way when the
    server was killed.
    """

    id: str
    steps: list[Step]
    done: int = 0
    doubt: Step | None = None

    @property
    def is_finished(self) -> bool:
        """Return whether its last step was acknowledged."""
        return self.done == len(self.steps)

    def truths(self, count: int) -> Json:
        """Return what is true after so many steps: of promises and of the task, by id."""
        found: Json = {}
        for step in self.steps[:count]:
            found |= step.becomes
        return found


def workflow(name: str, random: Random) -> Workflow:
    """Plan a workflow: local steps, then waits for promises that somebody else settles, an end."""
    version, steps = 1, []
    task = f"task {name}"

    def add(kind: str, data: Json, becomes: Json, *again: int) -> None:
        steps.append(Step(kind, data, becomes, again or (200,)))

    def create(promise_id: str) -> Json:
        tags = {"resonate:origin": name, "resonate:parent": name, "resonate:branch": name}
        return {"id": promise_id, "timeoutAt": FAR_MS, "tags": tags, "param": {"data": promise_id}}

    def settle(promise_id: str) -> Json:
        state = random.choice(("resolved", "rejected", "rejected_canceled"))
        return {"id": promise_id, "state": state, "value": {"data": f"{promise_id} {state}"}}

    def fence(action: str, data: Json, becomes: Json) -> None:
        inner = {"kind": action, "data": data}
        add("task.fence", {"id": name, "version": version, "action": inner}, becomes)

    new = {**create(name), "tags": {"resonate:target": TARGET, "resonate:origin": name}}
    data = {"pid": name, "ttl": TTL_MS, "action": {"data": new}}
    add("task.create", data, {name: ("pending", None), task: ("acquired", 1)})
    for number in range(random.randint(1, 4)):
        child = f"{name}:{number}"
        fence("promise.create", create(child), {child: ("pending", None)})
        end = settle(child)
        ended = {child: (end["state"], end["value"]["data"])}
        if random.random() < 0.5:
            fence("promise.settle", end, ended)
            continue
        awaiting = [{"data": {"awaited": child, "awaiter": name}}]
        held = {"id": name, "version": version}
        # It was carried out: then the task is suspended, and no longer held.
        add("task.suspend", {**held, "actions": awaiting}, {task: ("suspended", version)}, 200, 409)
        add("promise.settle", end, {**ended, task: ("pending", version)})
        claim = {**held, "pid": name, "ttl": TTL_MS}
        version += 1
        add("task.acquire", claim, {task: ("acquired", version)})
    end = settle(name)
    held = {"id": name, "version": version}
    ended = {name: (end["state"], end["value"]["data"]), task: ("fulfilled", version)}
    # It was carried out: then the task has ended.
    add("task.fulfill", {**held, "action": {"data": end}}, ended, 200, 409)
    return Workflow(name, steps)


@dataclass(slots=True)
class Report:
    """What a proof has seen. `doubts_count` are the steps whose answers were lost, by kind."""

    rounds_count: int = 0
    workflows_count: int = 0
    acknowledged_count: int = 0
    doubts_count: dict[str, int] = field(default_factory=dict)
    carried_out_count: int = 0

    def __str__(self) -> str:
        """All numbers on one line."""
        numbers = {name: getattr(self, name) for name in self.__slots__}
        return ", ".join(f"{name} {number}" for name, number in numbers.items())


class Proof:
    """One run over several lives of a server on one directory."""

    def __init__(self, directory: Path, seed: int, say: Callable[[str], object]) -> None:
        """Everything random follows from `seed`, but for the interleaving."""
        self._random = Random(seed)
        self._server = Victim(directory, *ARGUMENTS)
        self._workflows: list[list[Workflow]] = [[] for _ in range(WORKERS_COUNT)]
        self._problems: list[str] = []
        self._say = say
        self.report = Report()

    def run(self, rounds_count: int) -> Report:
        """Run all rounds. Raises AssertionError at the first thing that is wrong."""
        with self._server:
            for number in range(rounds_count):
                self._round()
                self._say(f"round {number + 1}: {self.report}")
            self._work(lambda: None)
            with Client(self._server.url) as http:
                self._verify(http)
        unfinished = [one.id for own in self._workflows for one in own if not one.is_finished]
        assert not unfinished, f"these did not go on: {unfinished}"
        return self.report

    def _round(self) -> None:
        for number, own in enumerate(self._workflows):
            first = len(own)
            for place in range(first, first + 400):
                own.append(workflow(f"w{number}.{place}", Random(self._random.random())))

        def kill() -> None:
            time.sleep(self._random.uniform(0.3, 1.5))
            self._server.kill9()

        self._work(kill)
        for own in self._workflows:
            # What was not begun is left out; so the last one is the one that was under way.
            del own[next((i for i, one in enumerate(own) if not _is_begun(one)), len(own)) :]
        while self._random.random() < 0.4:
            self._server.start_and_kill(self._random.uniform(0.0, 1.2))
        self._server.start()
        with Client(self._server.url, ANSWER_TIMEOUT_S) as http:
            self._verify(http)
        self.report.rounds_count += 1

    def _work(self, meanwhile: Callable[[], None]) -> None:
        """Let all workers carry out what they have, until they are through or the server ends."""
        workers = [
            threading.Thread(target=self._worker, args=(own,), daemon=True)
            for own in self._workflows
        ]
        for worker in workers:
            worker.start()
        meanwhile()
        for worker in workers:
            worker.join(JOIN_TIMEOUT_S)
            assert not worker.is_alive(), "somebody got neither an answer nor an end"
        assert self._problems == []

    def _worker(self, own: list[Workflow]) -> None:
        try:
            with Client(self._server.url, ANSWER_TIMEOUT_S) as http:
                for one in own:
                    for status, step in _carried_out(one, http):
                        self.report.acknowledged_count += 1
                        if status not in ((200,) if one.doubt is None else step.again):
                            self._problems.append(f"{one.id}: {step} is answered {status}")
                            return
        except NO_ANSWER:
            pass  # the server was killed
        except Exception as error:
            self._problems.append(f"{own}: {error!r}")
            raise

    # --- what must be so --------------------------------------------------------------------------

    def _verify(self, http: Client) -> None:
        """Compare all promises and tasks with what was acknowledged."""
        begun = [one for own in self._workflows for one in own]
        found: Json = {}
        for promise in search_all(http, "w*"):
            state = promise["state"].lower()
            found[promise["id"]] = (state, promise["value"].get("data"))
        tasks = {one["id"]: (one["state"], one["version"]) for one in _all_tasks(http)}
        found |= {f"task {name}": shown for name, shown in tasks.items()}
        expected: Json = {}
        for one in begun:
            truths = one.truths(one.done)
            if one.doubt is not None:
                kind = one.doubt.kind
                self.report.doubts_count[kind] = self.report.doubts_count.get(kind, 0) + 1
                further = one.truths(one.done + 1)
                if {name: found.get(name) for name in further} == further:
                    self.report.carried_out_count += 1
                    truths = further
            expected |= truths
        wrong = {
            name: (found.get(name), expected.get(name))
            for name in found.keys() | expected.keys()
            if found.get(name) != expected.get(name)
        }
        assert not wrong, f"found and expected differ: {wrong}"
        self.report.workflows_count = len(begun)


def _is_begun(one: Workflow) -> bool:
    return bool(one.done) or one.doubt is not None


def _carried_out(one: Workflow, http: Client) -> Iterator[tuple[int, Step]]:
    """Carry a workflow's steps out, from the one in doubt on; yield how each is answered.

    Raises one of NO_ANSWER, with the step in doubt.
    """
    while not one.is_finished:
        step = one.steps[one.done]
        is_repeated = one.doubt is not None
        one.doubt = step
        status = _said(http, step, f"{one.id} {one.done}")
        if not is_repeated:
            one.doubt = None
        yield status, step
        one.doubt = None
        one.done += 1


def _said(http: Client, step: Step, corr_id: str) -> int:
    """Make a request; its status. A fence answers with what its action has made."""
    head = {"corrId": corr_id, "version": VERSION}
    status, answer = http.call("POST", "/", {"kind": step.kind, "head": head, "data": step.data})
    assert (answer["kind"], answer["head"]["corrId"]) == (step.kind, corr_id)
    assert not list(unspeakable(answer)), answer
    if status == 200 and step.kind == "task.fence":
        inner = answer["data"]["action"]
        assert inner["head"]["status"] == 200, answer
        promise = inner["data"]["promise"]
        state, value = step.becomes[promise["id"]]
        assert (promise["state"], promise["value"].get("data")) == (state, value), answer
    elif status == 200 and step.kind in ("task.create", "task.acquire"):
        shown = answer["data"]["task"]
        assert (shown["state"], shown["version"]) == step.becomes[f"task {shown['id']}"], answer
    return status


def _all_tasks(http: Client) -> Iterator[Json]:
    """Return all workflow tasks, page by page."""
    cursor: Json = {}
    while True:
        data = {"limit": 1000, **cursor}
        head = {"corrId": "s", "version": VERSION}
        status, answer = http.call("POST", "/", {"kind": "task.search", "head": head, "data": data})
        assert status == 200, answer
        yield from answer["data"]["tasks"]
        if "cursor" not in answer["data"]:
            return
        cursor = {"cursor": answer["data"]["cursor"]}


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="troth-workflow-kill-") as directory:
        report = Proof(Path(directory), arguments.seed, print).run(arguments.rounds)
    print(f"nothing lost, nothing doubled: {report}")


if __name__ == "__main__":
    main()
