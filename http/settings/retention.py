"""How retention rules are written in settings and requests, and read.

As text, a rule is `STATE:AGE` or `STATE:AGE:TAG=VALUE`, and several are separated by commas:
`resolved:7d,rejected:30d:team=billing`. In TOML there may be a table for each,
`[[retain]] state = "resolved" age = "7d" tag = "team=billing"`, which can also hold commas.
States are the API's in small letters, or `all` for every completed one. A rule means exactly its
state: `rejected` leaves `rejected_canceled` and `rejected_timedout` alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from troth.core.grammar import durations
from troth.core.lifecycles import FINAL_STATES
from troth.core.model import PromiseState
from troth.core.retention_rules import RetentionRule

from .kinds import SettingKind, SettingRefused

STATES: Final[Mapping[str, tuple[PromiseState, ...]]] = {
    **{state.value.lower(): (state,) for state in FINAL_STATES},
    "all": tuple(FINAL_STATES),
}
"""The word for each choice of states."""

AGE_LIMIT_MS: Final = 1000 * 366 * 86_400_000
"""A thousand years: longer than any real age."""

_TABLE_KEYS: Final = frozenset({"state", "age", "tag"})


@dataclass(frozen=True)
class RetentionRules(SettingKind):
    """A list of retention rules; empty: nothing is ever deleted."""

    @property
    def allowed(self) -> str:
        return (
            "rules STATE:AGE or STATE:AGE:TAG=VALUE separated by commas, such as "
            f"resolved:7d,all:90d:team=billing; states: {', '.join(STATES)}; "
            "ages: 250ms, 10s, 5m, 2h, 7d; or none"
        )

    @property
    def placeholder(self) -> str:
        return "STATE:AGE[:TAG=VALUE],…"

    def from_text(self, text: str) -> tuple[RetentionRule, ...]:
        if text in {"", "none"}:
            return ()
        return tuple(self.rule(part.strip()) for part in text.split(","))

    def from_toml(self, value: object) -> tuple[RetentionRule, ...]:
        if isinstance(value, str):
            return self.from_text(value)
        if not isinstance(value, list):
            raise SettingRefused(self.allowed)
        return tuple(
            self._from_table(entry) if isinstance(entry, dict) else self.rule(entry)
            for entry in value
        )

    def rule(self, text: object) -> RetentionRule:
        """Read one rule; its tag may hold commas. Raises SettingRefused."""
        if not isinstance(text, str):
            raise SettingRefused(self.allowed)
        state, _, rest = text.partition(":")
        age, separator, tag = rest.partition(":")
        return self._made(state, age, tag if separator else None)

    def _from_table(self, table: dict[object, object]) -> RetentionRule:
        if not table.keys() <= _TABLE_KEYS:
            raise SettingRefused(self.allowed)
        return self._made(table.get("state"), table.get("age"), table.get("tag"))

    def _made(self, state: object, age: object, tag: object) -> RetentionRule:
        if not isinstance(state, str) or state not in STATES:
            raise SettingRefused(self.allowed)
        age_ms = durations.read_ms(age) if isinstance(age, str) else None
        if age_ms is None or age_ms > AGE_LIMIT_MS:
            raise SettingRefused(self.allowed)
        if tag is None:
            return RetentionRule(STATES[state], age_ms)
        if not isinstance(tag, str):
            raise SettingRefused(self.allowed)
        name, separator, value = tag.partition("=")
        if not name or not separator:
            raise SettingRefused(self.allowed)
        return RetentionRule(STATES[state], age_ms, (name, value))

    def show(self, value: object) -> str:
        if not isinstance(value, tuple) or not value:
            return "none"
        return ",".join(rule_texts(value))


def rule_texts(rules: Iterable[RetentionRule]) -> tuple[str, ...]:
    """Return each rule as it is written."""
    return tuple(_text(rule) for rule in rules)


def _text(rule: RetentionRule) -> str:
    word = next(word for word, states in STATES.items() if states == rule.states)
    shown = f"{word}:{durations.exact_text(rule.age_ms)}"
    return shown if rule.tag is None else f"{shown}:{rule.tag[0]}={rule.tag[1]}"
