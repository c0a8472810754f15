"""`troth bench`: the command line of the benchmark."""

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from rich.console import Console

from .client import BenchError, BenchTarget, BenchUnreachable
from .comparison import compare
from .load import SLOT_S
from .machine import divide_cores, environment
from .mix import read_mix
from .reports import history
from .reports.page import make_history_page, make_page
from .results import Report
from .scenarios.table import PUBLIC, SCENARIOS, SETS
from .session import BenchSession, Plan
from .studies import Row, study_memory, study_recovery, study_timers
from .tables import LoadProgress, show_history, show_scenarios, show_study, show_verdicts
from .workload import DISTRIBUTIONS

STUDIES: Final = {
    "timers": "how late promises time out while others are created",
    "memory": "memory of the server per pending promise (started server only)",
    "recovery": "time until a server is ready, by promises stored (started server only)",
}
HISTORY: Final = "history"
DEFAULT_SCENARIOS: Final = ("create", "read")
UNREACHABLE_STATUS: Final = 3
FILE_WIDTH: Final = 132


class BenchFailed(click.ClickException):
    """Something that ends the benchmark, as click shows it."""

    def __init__(self, error: BenchError) -> None:
        super().__init__(str(error))
        if isinstance(error, BenchUnreachable):
            # click declares it for the class, and reads it from the instance.
            self.__dict__["exit_code"] = UNREACHABLE_STATUS


# `ParamType` takes type arguments only in the newest versions of click; older ones work too.
class Numbers(click.ParamType):  # type: ignore[type-arg]
    """One number or several with commas between, each above 0; a tuple."""

    name = "numbers"

    def __init__(self, kind: Callable[[str], float]) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Read a value. Raises click.BadParameter."""
        if isinstance(value, tuple):
            return value
        texts = [str(one) for one in value] if isinstance(value, list) else str(value).split(",")
        try:
            numbers = tuple(self._kind(text) for text in texts)
        except ValueError:
            self.fail(f"{value!r} is not a number or a list such as 1,16,64.", param, ctx)
        if not all(number > 0 for number in numbers):
            self.fail(f"{value!r}: every number must be above 0.", param, ctx)
        return numbers


def _apply_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    """Make the options in a mix file the defaults of this call."""
    if path is not None:
        allowed = frozenset(
            option.removeprefix("--")
            for parameter in ctx.command.params
            if isinstance(parameter, click.Option) and parameter.name not in {"file", "help"}
            for option in parameter.opts
        )
        try:
            content = read_mix(path, allowed)
        except BenchError as error:
            raise BenchFailed(error) from error
        names = {
            option.removeprefix("--"): parameter.name
            for parameter in ctx.command.params
            for option in parameter.opts
        }
        defaults = {names[option]: value for option, value in content.options.items()}
        ctx.default_map = {**(ctx.default_map or {}), **defaults}
        ctx.meta["mix"] = content.mix
    return path


def _list(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        described = {name: SCENARIOS[name].summary for name in PUBLIC} | STUDIES
        described |= {name: f"all of {', '.join(members)}" for name, members in SETS.items()}
        for name, text in described.items():
            click.echo(f"{name:<16} {text}")
        ctx.exit()


def _option(*names: str, **details: Any) -> Callable[[Any], Any]:
    details.setdefault("show_default", details.get("default") is not None)
    return click.option(*names, **details)


_OPTIONS: Final = (
    _option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list,
            show_default=False, help="List scenarios and studies."),
    _option("--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), is_eager=True,
            callback=_apply_file, metavar="FILE",
            help="TOML file with [options] (the command line wins) and the weights of a [mix]."),
    _option("--url", "urls", metavar="URL", multiple=True,
            help="Server to measure [default: start a fresh one]; repeated: nodes that serve the "
            "same promises, among which connections are shared out."),
    _option("--poll-url", metavar="URL",
            help="Address of that server's streams [default: /poll at the API's address]."),
    _option("--user", metavar="NAME:PASSWORD", envvar="TROTH_BENCH_USER",
            help="Credentials for its HTTP Basic authentication [environment: TROTH_BENCH_USER]."),
    _option("--pid", type=int, metavar="NUMBER",
            help="Process id of that server on this machine, to show its CPU and memory."),
    _option("--connections", "-c", type=Numbers(int), default="64", metavar="N[,N…]",
            help="Number of connections, one operation each; several numbers are run in turn."),
    _option("--rate", "-r", type=Numbers(float), metavar="N[,N…]",
            help="Operations a second, whether or not the server keeps up [default: as many as "
            "it answers]."),
    _option("--arrivals", type=click.Choice(["even", "poisson"]), default="even",
            help="How operations arrive at a --rate."),
    _option("--duration", "-d", type=click.FloatRange(min=0.1), default=5.0, metavar="SECONDS",
            help="Measured time of each run."),
    _option("--warm-up", type=click.FloatRange(min=0), default=1.0, metavar="SECONDS",
            help="Time before the measured time, not counted."),
    _option("--runs", "-n", type=click.IntRange(min=1), default=1, metavar="N",
            help="Number of runs; 5 or more make comparisons meaningful."),
    _option("--payload-bytes", type=click.IntRange(min=0), default=200, metavar="N",
            help="Data in each promise."),
    _option("--keys", type=click.IntRange(min=1), default=1000, metavar="N",
            help="Number of promises to read and search."),
    _option("--distribution", type=click.Choice(DISTRIBUTIONS), default="sequential",
            help="Which keys are read; new ids are random unless sequential."),
    _option("--fan-out", type=click.IntRange(min=1), default=100, metavar="N",
            help="Number of subscribers to one promise in fan-out."),
    _option("--holders", type=click.IntRange(min=1), default=1000, metavar="N",
            help="Processes that send heartbeats."),
    _option("--processes", "-p", type=click.IntRange(min=1), default=1, metavar="N",
            help="Number of load processes."),
    _option("--server-processes", type=click.IntRange(min=1), default=1, metavar="N",
            help="Number of processes of a started server (`troth serve --processes`). With "
            "several, nothing is pinned, and CPU and memory are those of all of them."),
    _option("--timeout", type=click.FloatRange(min=0.1), default=10.0, metavar="SECONDS",
            help="Time after which a request without an answer has failed."),
    _option("--seed", type=int, default=1, metavar="N", help="Seed of all random choices."),
    _option("--ceilings/--no-ceilings", default=True,
            help="Also measure an echo server and the disk before each run."),
    _option("--pin/--no-pin", default=True,
            help="Run a started server on one core and the load on the others."),
    _option("--directory", type=click.Path(path_type=Path, exists=True, file_okay=False),
            metavar="DIR", help="Disk to measure: started servers store their data there."),
    _option("--serve-option", "serve_options", multiple=True, metavar="TEXT",
            help="Option for a started server, such as --serve-option=--shards=4; repeatable."),
    _option("--counts", type=Numbers(int), default="1000,10000,100000", metavar="N[,N…]",
            help="Numbers of stored promises, for memory and recovery."),
    _option("--timers", type=click.IntRange(min=100), default=100_000, metavar="N",
            help="Number of promises that time out, for timers."),
    _option("--window", type=click.FloatRange(min=1), default=10.0, metavar="SECONDS",
            help="Time within which they time out."),
    _option("--load-rate", type=click.FloatRange(min=1), default=500.0, metavar="N",
            help="Creates per second at the same time; typically half of the server's maximum."),
    _option("--samples", type=click.IntRange(min=1), default=500, metavar="N",
            help="Number of timers whose message is waited for."),
    _option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
            help="File to write the results to, for --baseline and for programs."),
    _option("--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
            help="File to write a page with charts to."),
    _option("--baseline", type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="FILE", help="Results of an earlier --json to compare with."),
    _option("--history", "history_path", type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE", help="File to add a line with the results to; history shows it."),
    _option("--fail-if-worse", is_flag=True, show_default=False,
            help="Exit with status 1 if anything is significantly worse than the baseline, or "
            "slower than in the history."),
)  # fmt: skip


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("bench")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@_with_options
@click.pass_context
def bench(context: click.Context, /, scenarios: tuple[str, ...], **options: Any) -> None:
    """Measure how fast a server is, and how fast it could be.

    Without --url a fresh server is started in a temporary directory, for every run. Any server
    that speaks the same API can be measured. Next to each result is what is possible on this
    machine at all: an echo over the same connections, and the disk with the same bytes.

    SCENARIO: create, batch, create-complete, read, tasks, step, workflow, fan-out, search, locks,
    heartbeats, schedules, envelope-create, envelope-tasks, hello, rpc, suspend, mixed, timers,
    memory, recovery, or envelope for it next to REST (--list says what they do). Without one:
    create and read. With history alone nothing is measured: it shows the file of --history.

    \b
    Examples:
      troth bench create -c 1,16,64,256 --html report.html
      troth bench create read --runs 5 --json before.json
      troth bench create read --runs 5 --baseline before.json --fail-if-worse
      troth bench create read step --runs 3 --history speed.jsonl
      troth bench history --history speed.jsonl --html speed.html
      troth bench envelope
      troth bench tasks --rate 1000 --url http://127.0.0.1:8001 --pid 4711
      troth bench create --url http://a:8001 --url http://b:8001 --url http://c:8001
    """
    if HISTORY in scenarios:
        context.exit(_show_history(scenarios, options))
    known = {*PUBLIC, *STUDIES, *SETS}
    for name in scenarios:
        if name not in known:
            raise click.UsageError(f"There is no scenario {name!r}; --list shows all.")
    mix: dict[str, float] = context.meta.get("mix", {})
    chosen = scenarios or (("mixed",) if mix else DEFAULT_SCENARIOS)
    # Each once, in the order in which they are named.
    chosen = tuple(dict.fromkeys(one for name in chosen for one in SETS.get(name, (name,))))
    if options["fail_if_worse"] and options["baseline"] is options["history_path"] is None:
        raise click.UsageError("--fail-if-worse needs a --baseline or a --history.")
    urls = options["urls"]
    if urls and {"memory", "recovery"} & set(chosen):
        raise click.UsageError(
            "The scenarios memory and recovery start their own servers; omit --url."
        )
    if len(urls) > 1 and (options["poll_url"] or options["pid"]):
        raise click.UsageError("With several --url there is no --poll-url and no --pid.")
    try:
        with _ending_in_order():
            worse = _bench(chosen, mix, options)
    except BenchError as error:
        raise BenchFailed(error) from error
    if worse and options["fail_if_worse"]:
        context.exit(1)


def _show_history(scenarios: tuple[str, ...], options: Mapping[str, Any]) -> int:
    """Show a history, and draw it; return the exit status."""
    path, page = options["history_path"], options["html_path"]
    if len(scenarios) > 1 or path is None:
        raise click.UsageError("history stands alone, with the file of --history.")
    try:
        entries = history.read(path)
        if page is not None:
            page.write_text(make_history_page(entries), encoding="utf-8")
    except OSError as error:
        raise BenchFailed(BenchError(str(error))) from error
    except BenchError as error:
        raise BenchFailed(error) from error
    show_history(_console(), entries)
    is_slower = any(one.is_slower for one in history.trends(entries))
    return int(is_slower and options["fail_if_worse"])


def _console() -> Console:
    """Return where tables go: a file has room for a whole one."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Make SIGTERM end this process as Ctrl-C does, so that it ends what it has started."""

    def end(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _bench(chosen: tuple[str, ...], mix: dict[str, float], options: Mapping[str, Any]) -> bool:
    """Measure, show, write; return whether anything is worse. Raises BenchError."""
    console = _console()
    # What cannot be read is found out before anything is measured.
    before = None if options["baseline"] is None else Report.load(options["baseline"])
    past = options["history_path"]
    entries = history.read(past) if past is not None and past.exists() else []
    report = Report(environment())
    targets = [
        BenchTarget.from_urls(url, options["poll_url"], options["user"], options["pid"])
        for url in options["urls"]
    ]
    for one in targets:
        one.ask("GET", "/promises/troth-bench-is-there-anybody")
    # A server that was started elsewhere stays where it is, and the load may be anywhere.
    cores = divide_cores(pinned=options["pin"] and options["server_processes"] == 1)
    if cores.load:
        # This process only watches; it must not disturb the server.
        os.sched_setaffinity(0, {cores.load[0]})
    with LoadProgress(console) as progress:
        session = BenchSession(_plan(chosen, mix, options), cores, progress.begin, progress.note)
        report.scenarios = session.measure(targets)
        for name in chosen:
            if name in STUDIES:
                report.studies[name] = _study(name, session, next(iter(targets), None), options)
    show_scenarios(console, report.scenarios)
    for name, rows in report.studies.items():
        show_study(console, name, rows)
    verdicts = compare(before, report) if before is not None else []
    if before is not None:
        show_verdicts(console, before, verdicts)
    worse = [one.title for one in verdicts if one.text == "worse"]
    if past is not None:
        entries.append(history.entry_of(report, history.commit_here()))
        history.append(past, entries[-1])
        show_history(console, entries)
        worse += [one.title for one in history.trends(entries) if one.is_slower]
    try:
        if options["json_path"] is not None:
            report.save(options["json_path"])
        if options["html_path"] is not None:
            options["html_path"].write_text(make_page(report, verdicts), encoding="utf-8")
    except OSError as error:
        raise BenchError(str(error)) from error
    return bool(worse)


def _processes_arguments(count: int) -> tuple[str, ...]:
    return () if count == 1 else ("--processes", str(count))


def _plan(chosen: tuple[str, ...], mix: dict[str, float], options: Mapping[str, Any]) -> Plan:
    return Plan(
        scenarios=tuple(name for name in chosen if name not in STUDIES),
        connections=options["connections"],
        rates=options["rate"] or (None,),
        runs=options["runs"],
        processes=options["processes"],
        ceilings=options["ceilings"],
        directory=options["directory"],
        server_arguments=(
            *options["serve_options"],
            *_processes_arguments(options["server_processes"]),
        ),
        workload={
            "duration_s": options["duration"],
            # Whole slots, so that no slot is half warm-up and half measured.
            "warm_up_s": math.ceil(options["warm_up"] / SLOT_S) * SLOT_S,
            "request_timeout_s": options["timeout"],
            "mix": mix,
            **{
                name: options[name]
                for name in (
                    *("arrivals", "payload_bytes", "keys", "distribution", "fan_out", "holders"),
                    "seed",
                )
            },
        },
    )


def _study(
    name: str, session: BenchSession, target: BenchTarget | None, options: Mapping[str, Any]
) -> list[Row]:
    if name == "timers":
        return study_timers(
            session,
            target,
            timers=options["timers"],
            window_s=options["window"],
            load_rate=options["load_rate"],
            sampled=options["samples"],
        )
    counts = sorted(set(options["counts"]))
    return study_memory(session, counts) if name == "memory" else study_recovery(session, counts)
