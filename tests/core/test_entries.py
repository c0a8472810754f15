"""The catalog's commands: entries are created once, and no change swallows another."""

from itertools import count

import pytest

from troth.core import commands as c
from troth.core import records as r
from troth.core.catalog import Account, Entry, Function, FunctionKind, Label
from troth.core.codes import Code
from troth.core.machine import Machine
from troth.core.model import replace
from troth.core.replies import Reply
from troth.core.state.apply import replay

ANNA, BERT = Account("a1", 1, 5, "Anna"), Account("a2", 1, 6, "Bert")
WEB = Function("f1", 1, 7, "a1", "web", FunctionKind.HTTP, url="https://example.com")
RED, BLUE = Label("l1", 1, 8, "a1", "red"), Label("l2", 1, 9, "a2", "blue")


@pytest.fixture
def machine() -> Machine:
    return Machine(0, lambda _: 0, count(1).__next__)


def ask(machine: Machine, command: c.Command) -> Reply:
    return machine.step(command, 1_000).reply


def listed(machine: Machine, kind: type[Entry], account_id: str | None = None) -> set[Entry]:
    return set(ask(machine, c.ListEntries(kind, account_id)).entries)


def test_an_entry_is_created_once(machine: Machine) -> None:
    assert ask(machine, c.ReadEntry("f1")) == Reply(Code.ENTRY_NOT_FOUND)
    assert ask(machine, c.CreateEntry(WEB)) == Reply(Code.CREATED, entry=WEB)
    assert ask(machine, c.CreateEntry(replace(RED, id="f1"))) == Reply(Code.ENTRY_EXISTS)
    assert ask(machine, c.ReadEntry("f1")) == Reply(Code.OK, entry=WEB)


def test_a_change_must_know_the_newest_revision(machine: Machine) -> None:
    paused = replace(WEB, revision=2, paused=True)
    assert ask(machine, c.ReplaceEntry(paused)) == Reply(Code.ENTRY_NOT_FOUND)
    ask(machine, c.CreateEntry(WEB))

    assert ask(machine, c.ReplaceEntry(paused)) == Reply(Code.OK, entry=paused)
    assert ask(machine, c.ReplaceEntry(paused)) == Reply(Code.ENTRY_CHANGED)
    assert ask(machine, c.ReplaceEntry(replace(RED, id="f1", revision=3))) == Reply(
        Code.ENTRY_CHANGED
    ), "an entry never becomes another kind of thing"
    assert ask(machine, c.ReadEntry("f1")) == Reply(Code.OK, entry=paused)


def test_deleting_must_know_the_newest_revision(machine: Machine) -> None:
    assert ask(machine, c.DeleteEntry("f1", 1)) == Reply(Code.ENTRY_NOT_FOUND)
    ask(machine, c.CreateEntry(WEB))

    assert ask(machine, c.DeleteEntry("f1", 2)) == Reply(Code.ENTRY_CHANGED)
    assert ask(machine, c.DeleteEntry("f1", 1)) == Reply(Code.NO_CONTENT, entry=WEB)
    assert ask(machine, c.ReadEntry("f1")) == Reply(Code.ENTRY_NOT_FOUND)
    assert ask(machine, c.CreateEntry(WEB)) == Reply(Code.CREATED, entry=WEB)


def test_entries_are_listed_by_type_and_account(machine: Machine) -> None:
    for entry in (ANNA, BERT, WEB, RED, BLUE):
        ask(machine, c.CreateEntry(entry))

    assert listed(machine, Account) == {ANNA, BERT}
    assert listed(machine, Account, "a2") == {BERT}, "an account belongs to itself"
    assert listed(machine, Label) == {RED, BLUE}
    assert listed(machine, Label, "a1") == {RED}
    assert listed(machine, Function, "a2") == set()
    ask(machine, c.DeleteEntry("l1", 1))
    given_away = replace(BLUE, revision=2, account_id="a1")
    ask(machine, c.ReplaceEntry(given_away))
    assert listed(machine, Label, "a1") == {given_away}
    assert listed(machine, Label, "a2") == set()


def test_the_records_bring_the_catalog_back(machine: Machine) -> None:
    again = Machine(0, lambda _: 0, count(1).__next__)
    commands = (
        *(c.CreateEntry(ANNA), c.CreateEntry(RED), c.ReplaceEntry(replace(RED, revision=2))),
        *(c.CreateEntry(WEB), c.DeleteEntry("f1", 1)),
    )
    for command in commands:
        for record in machine.step(command, 1_000).records:
            replay(again.state, r.decode(r.encode(record)))

    assert again.state.entries.by_id == machine.state.entries.by_id
    assert listed(again, Label, "a1") == {replace(RED, revision=2)}
