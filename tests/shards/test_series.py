"""Series of numbers: what each resolution keeps, gaps, and how much memory they take."""

import math
import time

import pytest

from troth.shards.surveys.series import (
    RESOLUTIONS,
    SERIES_LIMIT_BYTES,
    SERIES_LIMIT_COUNT,
    SeriesBook,
    SeriesKind,
)


def book_of(*names: str, is_peak: bool = False) -> SeriesBook:
    """A book with these series."""
    book = SeriesBook()
    for name in names:
        assert book.declare(name, SeriesKind("things", is_peak))
    return book


def test_series_bounds() -> None:
    book = SeriesBook()
    taken = [book.declare(f"s{number}", SeriesKind("x")) for number in range(100)]

    assert taken.count(True) == SERIES_LIMIT_COUNT
    for second in range(0, 200_000, 997):
        book.add(second, {f"s{number}": 1.0 for number in range(100)})
    assert 1_000_000 < book.size_bytes < SERIES_LIMIT_BYTES
    for name, resolution in RESOLUTIONS.items():
        _, views = book.view(name, -1)
        assert {len(one.values) for one in views} == {resolution.length}
    assert book.declare("s1", SeriesKind("x"))
    book.forget("s1")
    assert book.declare("new", SeriesKind("x"))


def test_each_resolution_has_its_values() -> None:
    book = book_of("a")
    for second in range(125):
        book.add(second, {"a": float(second)})

    first_s, (seconds,) = book.view("1s", -1)
    assert (first_s, seconds.values) == (0, [float(second) for second in range(125)])
    _, (tens,) = book.view("10s", -1)
    assert tens.values == [4.5 + 10 * number for number in range(12)]
    _, (minutes,) = book.view("1m", -1)
    assert minutes.values == [29.5, 89.5]


def test_peaks_stay_peaks() -> None:
    book = book_of("a", is_peak=True)
    for second in range(20):
        book.add(second, {"a": 100.0 if second == 13 else 1.0})

    assert book.view("10s", -1)[1][0].values == [1.0, 100.0]


def test_rings_turn_over_and_since_leaves_out_what_is_known() -> None:
    book = book_of("a")
    for second in range(1_000):
        book.add(second, {"a": float(second)})

    first_s, (series,) = book.view("1s", -1)
    assert (first_s, len(series.values)) == (700, 300)
    assert (series.values[0], series.values[-1]) == (700.0, 999.0)
    first_s, (series,) = book.view("1s", 996)
    assert (first_s, series.values) == (997, [997.0, 998.0, 999.0])
    assert book.view("1s", 999)[1][0].values == []
    assert book.view("1s", 5_000)[1][0].values == []


def test_what_did_not_come_is_unknown() -> None:
    book = book_of("a", "b")
    book.add(0, {"a": 1.0, "b": 1.0})
    book.add(3, {"a": 4.0})
    book.add(3, {"a": 9.0})
    book.add(2, {"a": 9.0})
    book.add(9, {"b": 3.0})

    _, (first, second) = book.view("1s", -1)
    assert [one for one in first.values if not math.isnan(one)] == [1.0, 4.0]
    assert book.view("10s", -1)[1][0].values == [2.5]
    assert book.view("10s", -1)[1][1].values == [2.0]
    assert len(second.values) == 10


@pytest.mark.parametrize("gap_s", [301, 100_000])
def test_a_long_gap_leaves_nothing_old(gap_s: int) -> None:
    book = book_of("a")
    for second in range(300):
        book.add(second, {"a": 1.0})
    book.add(300 + gap_s, {"a": 2.0})

    (series,) = book.view("1s", -1)[1]
    assert [one for one in series.values if not math.isnan(one)] == [2.0]


def test_a_gap_looks_as_if_each_second_had_come_empty() -> None:
    for first, gap_s in ((0, 1), (7, 5), (59, 2), (61, 58), (3, 700), (599, 9_000)):
        skipped, stepped = book_of("a"), book_of("a")
        for second in range(first + 1):
            skipped.add(second, {"a": float(second)})
            stepped.add(second, {"a": float(second)})
        for second in range(first + 1, first + 1 + gap_s):
            stepped.add(second, {})
        for book in (skipped, stepped):
            for second in range(first + 1 + gap_s, first + 200 + gap_s):
                book.add(second, {"a": 1.0})
        for name in RESOLUTIONS:
            assert str(skipped.view(name, -1)) == str(stepped.view(name, -1))


def test_a_gap_of_a_year_takes_no_longer_than_one_of_a_day() -> None:
    book = book_of(*(f"s{number}" for number in range(SERIES_LIMIT_COUNT)))
    began_s = time.thread_time()
    book.add(365 * 86_400, {"s1": 1.0})

    assert time.thread_time() - began_s < 0.5
