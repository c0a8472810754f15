"""How retention rules are written: in text, in TOML, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.lifecycles import FINAL_STATES
from troth.core.model import PromiseState
from troth.core.retention_rules import RetentionRule
from troth.http.settings.kinds import SettingRefused
from troth.http.settings.retention import AGE_LIMIT_MS, STATES, RetentionRules, rule_texts
from troth.http.settings.settings import Settings
from troth.http.settings.sources import load

RESOLVED = RetentionRule((PromiseState.RESOLVED,), 7 * 86_400_000)
TAGGED = RetentionRule(tuple(FINAL_STATES), 5_400_000, ("resonate:invoke", "poll://a=b:c"))
RULES = st.builds(
    RetentionRule,
    st.sampled_from(list(STATES.values())),
    st.integers(0, AGE_LIMIT_MS),
    st.none() | st.tuples(st.text("ab:.é", min_size=1), st.text("ab=:é ")),
)


def test_nothing_is_deleted_unless_somebody_says_so() -> None:
    assert Settings().retain == ()


def test_rules_are_read_from_text() -> None:
    text = "resolved:7d, all:1h30m:resonate:invoke=poll://a=b:c"

    assert RetentionRules().from_text(text) == (RESOLVED, TAGGED)


def test_rules_are_read_from_tables(tmp_path: Path) -> None:
    """Both forms, and a tag with a comma, which only a file can hold."""
    path = tmp_path / "troth.toml"
    path.write_text(
        '[[retain]]\nstate = "resolved"\nage = "7d"\n[[retain]]\nstate = "all"\nage = "90m"\n'
        'tag = "resonate:invoke=poll://a=b:c"\n[[retain]]\nstate = "rejected"\nage = "0s"\n'
        'tag = "team=a,b"\n'
    )

    rules = load(path, {}, {}).retain

    assert rules[:2] == (RESOLVED, TAGGED)
    assert rules[2] == RetentionRule((PromiseState.REJECTED,), 0, ("team", "a,b"))


@given(st.lists(RULES))
def test_what_is_shown_reads_back(rules: list[RetentionRule]) -> None:
    kind = RetentionRules()

    assert [kind.rule(text) for text in rule_texts(rules)] == rules


@pytest.mark.parametrize(
    "text",
    [
        *("resolved", "resolved:", "pending:7d", "resolved:7", "resolved:7w", "resolved:-1d"),
        *("resolved:7d,", "all:7d:tag", "all:7d:=value", "all:999999999999d", ":7d", "a:1d:b=c"),
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(SettingRefused):
        RetentionRules().from_text(text)


@pytest.mark.parametrize(
    "value",
    [7, {}, [7], [{"state": "all"}], [{"state": "all", "age": 7}], [{"age": "7d"}],
     [{"state": "all", "age": "7d", "tags": "a=b"}], [{"state": "all", "age": "7d", "tag": 7}]],
)  # fmt: skip
def test_what_a_file_may_not_hold_is_refused(value: object) -> None:
    with pytest.raises(SettingRefused):
        RetentionRules().from_toml(value)
