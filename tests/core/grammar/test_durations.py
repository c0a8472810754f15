"""Durations as text: what is one, how long it is, and that writing and reading agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.grammar import durations
from troth.core.grammar.durations import GO_UNITS, UNITS, exact_text, read_ms, read_ns


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("250ms", 250),
        ("10s", 10_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        (".5s", 500),
        ("1.s", 1_000),
        ("0d", 0),
        ("30m1h", 5_400_000),
        ("1.0009s", 1_000),
        ("007s", 7_000),
        ("9" * 30 + "d", int("9" * 30) * 86_400_000),
    ],
)
def test_a_duration_is_read(text: str, duration_ms: int) -> None:
    assert read_ms(text) == duration_ms


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "s", ".s", "1.5", "5 s", " 5s", "5s ", "-5s", "+5s", "1w", "5S", "1h30"),
        *("1,5h", "1..5h", "1.5.5h", "٣s", "5us", "5ns", "5s\n", "9" * 4_000 + "s"),
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert read_ms(text) is None


def test_each_language_knows_its_own_units() -> None:
    assert read_ns("1d", GO_UNITS) is None
    assert read_ns("1us", UNITS) is None
    assert read_ns("1h1us1µs1μs1ns", GO_UNITS) == 3_600_000_003_001


@given(st.integers(0, 2**63 - 1))
def test_what_is_written_is_read_again(duration_ms: int) -> None:
    assert read_ms(exact_text(duration_ms)) == duration_ms


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0s"), (1, "1ms"), (1_500, "1500ms"), (90_000, "90s"), (7_200_000, "2h"), (864e5, "1d")],
)
def test_a_duration_is_written_in_the_longest_unit(duration_ms: int, text: str) -> None:
    assert exact_text(int(duration_ms)) == text


@given(st.text(alphabet="0123456789.msdhnuµμ", max_size=12))
def test_any_text_is_a_duration_or_none(text: str) -> None:
    """A duration is the sum of its parts: two of them, one after the other, are one."""
    first, second = read_ns(text, GO_UNITS), read_ns("1h", GO_UNITS)
    both = durations.read_ns(text + "1h", GO_UNITS)

    assert second is not None
    if first is not None:
        assert both == first + second
