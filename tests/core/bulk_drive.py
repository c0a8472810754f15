"""Random commands with bulk jobs among them, for the system and a model of what jobs may touch.

The model knows what a job reaches: what there is when it begins, as far as ids and tags go. A slice
says how far it has come; between there and where it was, everything within reach that the filter
finds and that is pending must be done, newest first, and nothing else.
"""

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from troth.core import commands as c
from troth.core import records as r
from troth.core.bulk import (
    COMPLETIONS,
    BulkCounts,
    BulkFilter,
    BulkJob,
    BulkPart,
    BulkReport,
    BulkState,
    BulkSubject,
    Places,
)
from troth.core.codes import Code
from troth.core.model import PromiseState, replace

from .drive import ALL_STATES, Drive
from .model import Model, ModelPromise, View

PATTERNS = ("*", "a*", "*b*", "a:b", "*:*", "n*")
STATE_SETS = ((PromiseState.PENDING,), ALL_STATES, ALL_STATES[1:])


@dataclass
class ModelJob:
    """A job, what it reaches, and how far each shard is."""

    job: BulkJob
    reach: dict[str, ModelPromise]
    parts: dict[int, BulkPart] = field(default_factory=dict)

    def wants(self, promise: ModelPromise) -> bool:
        """Whether the filter finds a promise within reach now, and did when the job began."""
        if promise.state not in self.job.filter.states:
            return False
        began_on, ended_on = self.job.created_on, promise.completed_on
        return "PENDING" in self.job.filter.states or ended_on is None or ended_on <= began_on


class BulkModel(Model):
    """The model, with bulk jobs as entries of the catalog."""

    def __init__(
        self, is_local: Callable[[str, str], bool], claim_timeout_ms: int, catch_up_count: int
    ) -> None:
        super().__init__(is_local, claim_timeout_ms, catch_up_count)
        self.jobs: dict[str, ModelJob] = {}

    def functions(self) -> View:
        """The jobs."""
        return {
            **super().functions(),
            "entries": {one.job.id: one.job for one in self.jobs.values()},
        }


class BulkDrive(Drive):
    """One random run with bulk jobs."""

    model_type = BulkModel
    model: BulkModel

    def one_thing(self) -> None:
        """Often something about a job."""
        if self.random.random() < 0.25:
            self.settle_all()
            self.bulk_thing()
            self.compare()
        else:
            super().one_thing()

    def compare(self) -> None:
        """Compare how far all shards are, too."""
        super().compare()
        for index, machine in enumerate(self.system.machines):
            expected = {
                one.job.id: one.parts[index]
                for one in self.model.jobs.values()
                if index in one.parts
            }
            assert machine.state.bulk_parts == expected

    def bulk_thing(self) -> None:
        """Start a job, carry out a slice of one, count, or end one."""
        running = [one for one in self.model.jobs.values() if one.job.state is BulkState.RUNNING]
        chance = self.random.random()
        if not running or (len(running) < 3 and chance < 0.1):
            self.start_job()
        elif chance < 0.8:
            self.slice(self.random.choice(running))
        elif chance < 0.9:
            self.count(self.random.choice(running))
        else:
            self.end(self.random.choice(running))

    def start_job(self) -> None:
        """Start a job on promises."""
        random, system = self.random, self.system
        pattern = random.choice(PATTERNS)
        states = random.choice(STATE_SETS)
        tags = random.choice(({}, {}, {"x": "1"}))
        wanted = BulkFilter(pattern, tuple(one.value for one in states), tags)
        job = BulkJob(
            f"job{len(self.model.jobs)}",
            *(1, system.now, "", "anna", BulkSubject.PROMISES),
            *(random.choice(sorted(COMPLETIONS)), wanted, {"id": pattern}, 1_000),
            (system.serial,),
            self.value(),
            id_prefix=random.choice(("", "", "a")),
        )
        assert system.ask(c.CreateEntry(job)).code is Code.CREATED
        regular = re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).fullmatch
        found = self.model.search(
            lambda one: regular(one) is not None and one.startswith(job.id_prefix),
            ALL_STATES,
            tags,
        )
        reach = {one: self.model.promises[one] for one in found}
        self.model.jobs[job.id] = ModelJob(job, reach)
        self.events["job"] += 1

    def slice(self, one: ModelJob) -> None:
        """Carry out a slice."""
        random, job = self.random, one.job
        index = random.randrange(self.system.shard_count)
        part = one.parts.get(index, BulkPart(job.start))
        limit_count, scan_count = random.choice(((1, 1), (1, 3), (3, 5), (50, 1_000)))
        log_count = len(self.system.log)
        command = c.RunBulk(job.id, limit_count, scan_count)
        report = self.system.tell(index, command).reply.bulk
        assert report is not None
        if part.places is None:
            assert report == BulkReport(None, part.counts)
            self.events["slice after the end"] += 1
            return
        done_ids, skipped_count = self.expected(one, index, part.places, report.places)
        assert self.completed_since(log_count) == done_ids
        for name in done_ids:
            promise = one.reach[name]
            state, time = COMPLETIONS[job.action].value, self.system.now
            self.model.finish(promise, state, job.value, None, max(time, promise.created_on))
        skipped = {"completed": skipped_count} if skipped_count else {}
        counts = part.counts.plus(BulkCounts(len(done_ids), 0, skipped))
        one.parts[index] = BulkPart(report.places, counts)
        assert report == BulkReport(report.places, counts, len(done_ids))
        self.events["slice that did something" if done_ids else "slice for nothing"] += 1

    def expected(
        self, one: ModelJob, index: int, begin: Places, end: Places | None
    ) -> tuple[list[str], int]:
        """What a slice between two places has to do, and how many it passes over."""
        if end is not None:
            assert end[0] < begin[0], "no progress"
        serials = {
            promise.id: promise.serial
            for promise in self.system.promises()
            if self.system.shard_of(promise.id) == index
        }
        within = sorted(
            (
                promise
                for name, promise in one.reach.items()
                if name in serials
                and serials[name] < begin[0]
                and (end is None or serials[name] >= end[0])
                and one.wants(promise)
            ),
            key=lambda promise: -serials[promise.id],
        )
        done = [promise.id for promise in within if promise.state == "PENDING"]
        return done, len(within) - len(done)

    def completed_since(self, log_count: int) -> list[str]:
        """The promises that these steps completed, in their order; timeouts were before."""
        return [
            record.id
            for step in self.system.log[log_count:]
            for record in (r.decode(body) for _, body in step)
            if isinstance(record, r.PromiseCompleted | r.CompletionBegun)
        ]

    def count(self, one: ModelJob) -> None:
        """Count what the job would do, which changes nothing."""
        scan_count = self.random.choice((1, 2, 1_000))
        for index in range(self.system.shard_count):
            places: Places | None = one.job.start
            counts = BulkCounts()
            while places is not None:
                report = self.system.tell(
                    index, c.CountBulk(one.job.id, places, scan_count)
                ).reply.bulk
                assert report is not None
                counts = counts.plus(report.counts)
                assert len(report.examples) == report.counts.done_count
                places = report.places
            done_ids, skipped_count = self.expected(one, index, one.job.start, None)
            assert (counts.done_count, counts.skipped_count) == (len(done_ids), skipped_count)
        self.events["count"] += 1

    def end(self, one: ModelJob) -> None:
        """End a job: nothing of it happens any more, and the shards may forget it."""
        ended = replace(one.job, revision=2, state=BulkState.STOPPED, ended_on=self.system.now)
        assert self.system.ask(c.ReplaceEntry(ended)).code is Code.OK
        one.job = ended
        for index in range(self.system.shard_count):
            for command in (
                c.RunBulk(ended.id, 50, 1_000),
                c.CountBulk(ended.id, ended.start, 1_000),
                c.AdvanceBulk(ended.id, None, BulkCounts(1)),
            ):
                assert self.system.tell(index, command).reply.code is Code.BULK_ENDED
            if self.random.random() < 0.8:
                self.system.tell(index, c.CloseBulk(ended.id))
                one.parts.pop(index, None)
        self.events["end"] += 1
