"""Search patterns: `*` is the only wildcard, and no pattern is expensive."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.grammar.patterns import Pattern

TEXTS = st.text(alphabet="ab*?[].%_\n\u00fc", max_size=12)


def regular(pattern: str) -> re.Pattern[str]:
    """The same pattern as a regular expression."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


@given(TEXTS, TEXTS)
def test_patterns_match_as_the_regular_expression_does(pattern: str, text: str) -> None:
    assert Pattern(pattern).matches(text) == (regular(pattern).fullmatch(text) is not None)


@given(TEXTS, st.lists(st.text(max_size=3), min_size=1))
def test_whatever_stands_for_the_stars_matches(pattern: str, fillings: list[str]) -> None:
    first, *rest = pattern.split("*")
    text = first + "".join(
        fillings[index % len(fillings)] + part for index, part in enumerate(rest)
    )

    assert Pattern(pattern).matches(text)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("a", "A", False),
        ("a%", "ab", False),
        ("a_", "ab", False),
        ("ab*ba", "aba", False),
        ("a*b", "a\nb", True),
        ("**", "a", True),
    ],
)
def test_single_cases(pattern: str, text: str, expected: bool) -> None:
    assert Pattern(pattern).matches(text) is expected


def test_only_a_pattern_without_wildcard_is_exact() -> None:
    assert Pattern("a.b").exact == "a.b"
    assert Pattern("a*").exact is None


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*a" * 500 + "b", "a" * 1_024),
        ("*" * 1_000 + "b", "a" * 1_024),
        ("a*" * 340 + "ab", "a" * 1_024),
        ("*" + "a" * 500 + "b*", "a" * 1_024),
    ],
)
def test_hostile_patterns_are_fast(pattern: str, text: str) -> None:
    """A regular expression with that many wildcards would not end."""
    compiled = Pattern(pattern)
    started = time.process_time()
    for _ in range(20):
        assert not compiled.matches(text)

    assert time.process_time() - started < 1


@given(st.text(alphabet="ab*"), st.text(alphabet="ab", max_size=3), st.text(alphabet="ab"))
def test_within_narrows_a_pattern_and_nothing_else(pattern: str, within: str, text: str) -> None:
    narrowed = Pattern(pattern, within)

    assert narrowed.matches(text) == (text.startswith(within) and Pattern(pattern).matches(text))
    if narrowed.matches(text):
        assert text.startswith(narrowed.prefix)
