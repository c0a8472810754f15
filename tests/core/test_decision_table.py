"""Every command and every kind of timer has a function: the tables name them all."""

from collections.abc import Iterator
from typing import get_args

from troth.core import commands, continuations, schedule_runs, workflow_commands
from troth.core import records as r
from troth.core.decisions.table import DECISIONS, EXPIRIES
from troth.core.state.apply import APPLY

MODULES = {one.__name__ for one in (commands, continuations, schedule_runs, workflow_commands)}


def all_commands(base: type[commands.Command] = commands.Command) -> Iterator[type]:
    """The commands: whatever derives from `Command`, and nothing more derives from."""
    for kind in base.__subclasses__():
        yield from all_commands(kind)
        if kind.__module__ in MODULES and not kind.__subclasses__():
            yield kind


def test_each_command_is_decided() -> None:
    assert set(DECISIONS) == set(all_commands())


def test_each_decision_is_for_one_command() -> None:
    assert len(set(DECISIONS.values())) == len(DECISIONS)


def test_each_kind_of_timer_has_its_function() -> None:
    kinds = {one for name, one in vars(commands).items() if name.endswith("_TIMER")}
    assert set(EXPIRIES) == kinds


def test_each_record_is_applied() -> None:
    assert set(APPLY) == set(get_args(r.Record))
