"""Which shard an id lives in: the answers must stay the same forever."""

import re

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as some

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.grammar import task_ids
from troth.core.grammar.origins import origin_of
from troth.persistence.placement import PlacementRule, by_id, by_rule
from troth.shards.hashing import HOMES, Homes, shard_of

TAIL = re.compile(r"(?:[.:](?:0|[1-9][0-9]{0,4}))*\Z")


@pytest.mark.parametrize(
    ("identifier", "origin"),
    [
        ("order", "order"),
        ("order.1", "order"),
        ("order:1", "order"),
        ("order.1:0.99999", "order"),
        ("order.100000", "order.100000"),
        ("order.01", "order.01"),
        ("order.1.01", "order.1.01"),
        ("order.01.1", "order.01"),
        ("order.00", "order.00"),
        ("order..1", "order."),
        ("order.1.", "order.1."),
        ("order.1a", "order.1a"),
        ("order.a1", "order.a1"),
        ("order-1", "order-1"),
        ("a.1.b.2", "a.1.b"),
        ("7", "7"),
        (".7", ""),
        ("", ""),
        ("order.\N{ARABIC-INDIC DIGIT ONE}", "order.\N{ARABIC-INDIC DIGIT ONE}"),
        ("\N{ALARM CLOCK}:3", "\N{ALARM CLOCK}"),
    ],
)
def test_the_origin_is_what_is_before_the_numbers(identifier: str, origin: str) -> None:
    assert origin_of(identifier) == origin


@given(some.text(alphabet=".:0123a\N{ALARM CLOCK}", max_size=30))
def test_the_origin_is_as_the_rule_says(identifier: str) -> None:
    found = TAIL.search(identifier)
    assert found is not None
    # The longest tail begins first; a search from the left finds it.
    assert origin_of(identifier) == identifier[: found.start()]


@given(some.text(max_size=20), some.integers(0, 99_999), some.sampled_from(".:"))
def test_a_call_is_where_its_workflow_is(root: str, number: int, separator: str) -> None:
    call = f"{root}{separator}{number}"
    assert shard_of(call, 16) == shard_of(root, 16)
    assert origin_of(call) == origin_of(root)


def test_shards_are_those_of_ever() -> None:
    """Literal answers: a change of them would lose all data."""
    of_origin, of_id = by_rule(PlacementRule.ORIGIN, 16), by_rule(PlacementRule.ID, 16)
    ids = ["", "order", "order.1", "order:7.2", "invoice:42", "ünï", "x" * 1024]
    assert [of_id(one) for one in ids] == [
        xxhash.xxh3_64_intdigest(one.encode()) % 16 for one in ids
    ]
    assert [of_origin(one) for one in ids] == [
        xxhash.xxh3_64_intdigest(one.encode()) % 16
        for one in ["", "order", "order", "order", "invoice", "ünï", "x" * 1024]
    ]
    assert [of_id(one) for one in ids] == LITERAL


LITERAL = [2, 9, 0, 11, 13, 0, 10]


def test_commands_go_where_their_ids_live() -> None:
    """Promises and tasks by origin, names by the whole id, under both rules."""
    for rule in PlacementRule:
        homes = Homes(rule, 16)
        promise = by_rule(rule, 16)("root")
        call = "root.1" if rule is PlacementRule.ORIGIN else "root"
        for command in (
            c.CreatePromise(call, 1),
            c.ClaimTask(task_ids.invoke_id(call), 1, "p", 1),
            c.ClaimTask(task_ids.resume_id(call, "leaf"), 1, "p", 1),
            c.CreateCallback(call, "elsewhere", 1, "poll://any@g"),
            w.ReadWorkflow(call),
        ):
            assert homes.of_command[type(command)](command) == promise, (rule, command)
        for named in (
            c.ReadSchedule("root.1"),
            c.DeleteSchedule("root.1"),
            c.AcquireLock("root.1", "e", "p", 1),
            c.ReadEntry("root.1"),
        ):
            assert homes.of_command[type(named)](named) == by_id(16)("root.1"), (rule, named)
        assert set(homes.of_command) == set(HOMES)
