"""Cron expressions against the recorded vectors, a brute-force oracle and hostile text."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troth.core.grammar.cron import Cron, CronRefused, parse
from troth.core.grammar.zones import load_zone

MINUTE_MS = 60_000
DAY_MS = 86_400_000
FIELD_RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def at_ms(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    """Return the instant of a wall-clock time like `2026-11-21 12:00:00`."""
    wall = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return round(wall.timestamp()) * 1_000


def firings(cron: Cron, after_ms: int, until_ms: int) -> list[int]:
    """Return all firing times in (after, until], one by one."""
    found = []
    time_ms = cron.next_after_ms(after_ms)
    while time_ms is not None and time_ms <= until_ms:
        found.append(time_ms)
        time_ms = cron.next_after_ms(time_ms)
    return found


# --- what is accepted -----------------------------------------------------------------------------

# expression, nextRunTime where it was recorded, on 2026-11-21 in UTC by the reference server
ACCEPTED = {
    " 0  0 1 1 * ": 1798761600000,
    "*/5 * * * *": None,
    "0 0 * * 0": None,
    "0 0 * * SUN": None,
    "0 0 * JAN MON-FRI": 1798761600000,
    "0 0 13 * 5": 1795737600000,
    "1,2,3 * * * *": None,
    "30 0 0 1 1 *": 1798761630000,
    "5/15 * * * *": None,
    "? ? 1 1 ?": 1798761600000,
    "@annually": 1798761600000,
    "@daily": None,
    "@every 1h": None,
    "@every 90s": None,
    "@hourly": None,
    "@monthly": 1796083200000,
    "@weekly": None,
    "TZ=UTC 0 0 1 1 *": 1798761600000,
}
RECORDED_AT_MS = 1795294706030


@pytest.mark.parametrize(("expression", "next_ms"), ACCEPTED.items())
def test_recorded_expressions(expression: str, next_ms: int | None) -> None:
    found_ms = parse(expression, "UTC").next_after_ms(RECORDED_AT_MS)

    assert found_ms is not None
    assert found_ms > RECORDED_AT_MS
    if next_ms is not None:
        assert found_ms == next_ms


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("", "not 0"),
        ("x", "not 1"),
        ("* * * *", "not 4"),
        ("* * * * * * *", "not 7"),
        ("* * * 13 *", "month: '13' is not allowed; write 1 to 12 or jan to dec"),
        ("* * 0 * *", "day of month: '0' is not allowed; write 1 to 31"),
        ("* * 32 * *", "day of month"),
        ("* 24 * * *", "hour: '24' is not allowed; write 0 to 23"),
        ("0 0 * * 1#2", "day of week"),
        ("0 0 * * 7", "day of week: '7' is not allowed; write 0 to 6 or sun to sat"),
        ("0 0 15W * *", "day of month"),
        ("0 0 L * *", "day of month"),
        ("5-1 * * * *", "a range goes from the lower"),
        ("0 0 * * sat-mon", "a range goes from the lower"),
        ("60 * * * *", "minute"),
        ("60 * * * * *", "second"),
        ("*/0 * * * *", "a step is at least 1"),
        ("*/x * * * *", "minute"),
        ("*/ * * * *", "minute"),
        ("1/2/3 * * * *", "minute"),
        ("1-2-3 * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("1- * * * *", "minute"),
        (", * * * *", "minute"),
        ("mon * * * *", "minute"),
        ("* * * mon *", "month"),
        ("٣ * * * *", "minute"),
        ("1" * 1000 + " * * * *", "minute"),
        ("*/" + "9" * 25 + " * * * *", "minute"),
        ("@reboot", "not a descriptor"),
        ("@Daily", "not a descriptor"),
        ("@daily ", "not a descriptor"),
        (" @daily", "not 1"),
        ("@every", "not a descriptor"),
        ("@every ", "not a duration"),
        ("@every 1", "not a duration"),
        ("@every 1h 30m", "not a duration"),
        ("@every 1d", "not a duration"),
        ("@every .s", "not a duration"),
        ("@every 2562048h", "too long"),
        ("@every " + "9" * 1000 + "ns", "too long"),
        ("TZ=UTC", "no fields after the time zone"),
        ("CRON_TZ=UTC", "no fields after the time zone"),
        ("TZ=UTC ", "not 0"),
        ("TZ=Mars/X 0 0 1 1 *", "there is no time zone 'Mars/X'"),
        ("TZ=../../etc/passwd * * * * *", "not the name of a time zone"),
        ("TZ=/etc/passwd * * * * *", "not the name of a time zone"),
        ("TZ=America * * * * *", "there is no time zone"),
        ("TZ=\x00 * * * * *", "not the name of a time zone"),
        ("TZ=" + "a" * 1000 + " * * * * *", "not the name of a time zone"),
        (" TZ=UTC 0 0 1 1 *", "second: 'TZ=UTC'"),
    ],
)
def test_what_is_refused_and_what_the_message_says(expression: str, part: str) -> None:
    with pytest.raises(CronRefused) as refusal:
        parse(expression, "UTC")

    assert part in str(refusal.value)
    assert len(str(refusal.value)) < 300


# --- when it fires --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("* * * * *", "0 * * * * *"),
        ("? ? ? ? ?", "0 */1 0-23 1-31 */1 *"),
        ("1,,2, * * * *", "1,2 * * * *"),
        ("5/15 * * * *", "5,20,35,50 * * * *"),
        ("10-20/5 * * * *", "10,15,20 * * * *"),
        ("*/100 +7 * * *", "0 07 * * *"),
        ("0 0 * jAn mon-FRI/2", "0 0 * 1 1,3,5"),
        ("@weekly", "0 0 * * 0"),
        ("@yearly", "0 0 1 1 *"),
        ("0 0 1,* * 5", "0 0 * * 5"),
        ("CRON_TZ=Asia/Tokyo 0 9 * * *", "TZ= 0 0 * * *"),
        ("TZ=Local 0 9 * * *", "0 9 * * *"),
        ("TZ=UTC  @daily ", "@midnight"),
    ],
)
def test_two_ways_to_write_the_same(left: str, right: str) -> None:
    start_ms, end_ms = at_ms("2026-01-01 00:00:00"), at_ms("2026-01-22 00:00:00")
    ask = (start_ms, end_ms, 1_000)

    assert parse(left, "UTC").latest_between_ms(*ask) == parse(right, "UTC").latest_between_ms(*ask)


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 13 * 5", [2, 9, 13, 16, 23, 30]),  # neither is a star: either matches
        ("0 0 13 * *", [13]),
        ("0 0 * * 5", [2, 9, 16, 23, 30]),
        ("0 0 */1 * 5", [2, 9, 16, 23, 30]),
        ("0 0 ? * 5", [2, 9, 16, 23, 30]),
        ("0 0 13 * */1", [13]),
        ("0 0 1-31 * 5", list(range(1, 32))),  # all days, but not a star
        ("0 0 13 * */3", [4, 7, 11, 13, 14, 18, 21, 25, 28]),  # Sunday, Wednesday, Saturday...
    ],
)
def test_the_star_rule(expression: str, days: list[int]) -> None:
    if expression.endswith("*/3"):  # ...of which January 2026 has these
        days = sorted({13} | {day for day in range(1, 32) if (day + 3) % 7 in (0, 3, 6)})
    found = firings(
        parse(expression, "UTC"), at_ms("2025-12-31 12:00:00"), at_ms("2026-01-31 12:00:00")
    )

    assert [datetime.fromtimestamp(ms / 1_000, UTC).day for ms in found] == days


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 0 29 2 *", "2026-01-01 00:00:00", "2028-02-29 00:00:00"),
        ("0 0 29 2 *", "2096-02-29 00:00:00", None),  # 2100 is no leap year
        ("0 0 29 2 *", "2099-01-01 00:00:00", "2104-02-29 00:00:00"),
        ("0 0 31 2 *", "2026-01-01 00:00:00", None),
        ("0 0 30 2 *", "2026-01-01 00:00:00", None),
        ("0 0 31 4,6,9,11 *", "2026-01-01 00:00:00", None),
        ("* * * * * *", "2026-12-31 23:59:59", "2027-01-01 00:00:00"),
    ],
)
def test_rare_and_impossible_dates(expression: str, after: str, expected: str | None) -> None:
    found_ms = parse(expression, "UTC").next_after_ms(at_ms(after))

    assert found_ms == (None if expected is None else at_ms(expected))


def test_a_firing_is_strictly_after_and_a_whole_second() -> None:
    cron = parse("* * * * * *", "UTC")

    assert [cron.next_after_ms(ms) for ms in (-1, 0, 1, 999, 1_000)] == [0, 1000, 1000, 1000, 2000]


@pytest.mark.parametrize("time_ms", [-(2**63), -62135596800000, 2**63 - 1, 253402300800000])
def test_any_64_bit_time_is_taken(time_ms: int) -> None:
    for expression in ("* * * * *", "0 0 29 2 *", "0 0 31 2 *", "TZ=America/New_York @yearly"):
        cron = parse(expression, "UTC")
        next_ms = cron.next_after_ms(time_ms)
        assert next_ms is None or next_ms > time_ms
        assert len(cron.latest_between_ms(time_ms, time_ms + 10, 3)) <= 1
        assert len(cron.latest_between_ms(-(2**63), time_ms, 3)) <= 3


@pytest.mark.parametrize(
    ("duration", "period_ms"),
    [
        ("1h30m10s", 5_410_000),
        ("1.5h", 5_400_000),
        ("90s", 90_000),
        ("+2m", 120_000),
        ("1500ms", 1_000),
        ("2500000us", 2_000),
        ("2500000µs", 2_000),
        ("2500000μs", 2_000),
        ("3000000000ns", 3_000),
        ("1.s", 1_000),
        (".5m", 30_000),
        ("1m1m", 120_000),
        ("0", 1_000),
        ("1ns", 1_000),
        ("-1h", 1_000),
        ("2562047h", 2_562_047 * 3_600_000),
    ],
)
def test_every(duration: str, period_ms: int) -> None:
    cron = parse(f"@every {duration}", "UTC")

    assert cron.next_after_ms(1_795_294_706_030) == 1_795_294_706_000 + period_ms
    assert cron.next_after_ms(2**63 - 1) == 2**63 - 1


# --- changing clocks ------------------------------------------------------------------------------


def test_a_time_that_is_skipped_in_spring_does_not_fire() -> None:
    cron = parse("TZ=America/New_York 30 2 * * *")
    found = firings(cron, at_ms("2026-03-06 12:00:00"), at_ms("2026-03-10 12:00:00"))

    zone = "America/New_York"
    days = ("2026-03-07", "2026-03-09", "2026-03-10")
    assert found == [at_ms(f"{day} 02:30:00", zone) for day in days]


def test_a_time_in_the_repeated_hour_in_autumn_fires_twice() -> None:
    cron = parse("TZ=America/New_York 30 1 * * *")
    found = firings(cron, at_ms("2026-10-31 12:00:00"), at_ms("2026-11-01 12:00:00"))

    zone = "America/New_York"
    assert found == [at_ms("2026-11-01 01:30:00", zone, fold=fold) for fold in (0, 1)]


def test_a_day_without_midnight_fires_at_noon() -> None:
    """Cairo, Beirut and others change at midnight; robfig/cron misses the whole day."""
    zone = "Africa/Cairo"  # 24 April 2026 begins at 01:00
    cron = parse(f"TZ={zone} 0 0,12 24 4 *")

    assert cron.next_after_ms(at_ms("2026-04-23 12:00:00")) == at_ms("2026-04-24 12:00:00", zone)


FIELD_TEXTS = [
    st.sampled_from(["*", "?", "*/1"])
    | st.integers(2, high).map(lambda step: f"*/{step}")
    | st.lists(st.integers(low, high), min_size=1, max_size=4).map(
        lambda values: ",".join(map(str, values))
    )
    | st.tuples(st.integers(low, high), st.integers(low, high), st.integers(1, 9)).map(
        lambda bounds: f"{min(bounds[:2])}-{max(bounds[:2])}/{bounds[2]}"
    )
    for low, high in FIELD_RANGES
]
# Zones with changes of an hour and half an hour, at midnight, and a skipped day; fixed; the instant
# of a change where there is one.
CHANGES = {
    "UTC": "2026-01-31 23:59:00",
    "America/New_York": "2026-11-01 06:00:00",
    "Europe/Berlin": "2026-03-29 01:00:00",
    "Australia/Lord_Howe": "2026-04-04 15:00:00",
    "Africa/Cairo": "2026-04-23 22:00:00",
    "Africa/Casablanca": "2026-02-15 02:00:00",
    "Pacific/Apia": "2011-12-30 10:00:00",
    "Asia/Kathmandu": "1985-12-31 18:30:00",
}


def oracle_values(text: str, low: int, high: int) -> set[int]:
    """Return the values of a field as the strategies above write it."""
    values: set[int] = set()
    for part in text.split(","):
        bounds, _, step = part.partition("/")
        first, _, last = bounds.partition("-")
        if first in ("*", "?"):
            values.update(range(low, high + 1, int(step or 1)))
        else:
            values.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return values


def oracle(fields: list[str], zone: str, start_s: int, end_s: int, step_s: int) -> list[int]:
    """Look at each instant in turn and say, in ms, which ones match."""
    second, minute, hour, day, month, weekday = (
        oracle_values(text, low, high)
        for text, (low, high) in zip(fields, FIELD_RANGES, strict=True)
    )
    stars = [text in ("*", "?", "*/1") for text in (fields[3], fields[5])]
    found = []
    for instant_s in range(start_s, end_s + 1, step_s):
        wall = datetime.fromtimestamp(instant_s, ZoneInfo(zone))
        days = (wall.day in day, wall.isoweekday() % 7 in weekday)
        if (
            wall.second in second
            and wall.minute in minute
            and wall.hour in hour
            and wall.month in month
            and (all(days) if any(stars) else any(days))
        ):
            found.append(instant_s * 1_000)
    return found


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(CHANGES)), st.tuples(*FIELD_TEXTS[1:]), st.integers(-1500, 1500))
def test_minutes_agree_with_looking_at_each(
    zone: str, fields: tuple[str, ...], shift_minutes: int
) -> None:
    start_s = at_ms(CHANGES[zone]) // 1_000 + shift_minutes * 60
    end_s = start_s + 2 * 86_400
    expected = oracle(["0", *fields], zone, start_s + 60, end_s, 60)
    cron = parse(" ".join(fields), zone)

    assert firings(cron, start_s * 1_000, end_s * 1_000) == expected
    assert cron.latest_between_ms(start_s * 1_000, end_s * 1_000, 10_000) == expected
    assert cron.latest_between_ms(start_s * 1_000, end_s * 1_000, 3) == expected[-3:]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CHANGES)), st.tuples(*FIELD_TEXTS[:3]), st.integers(-3700, 3700))
def test_seconds_agree_with_looking_at_each(
    zone: str, fields: tuple[str, ...], shift_s: int
) -> None:
    start_s = at_ms(CHANGES[zone]) // 1_000 + shift_s
    end_s = start_s + 1_000
    expected = oracle([*fields, "*", "*", "*"], zone, start_s + 1, end_s, 1)
    cron = parse(" ".join((*fields, "*", "*", "*")), zone)

    assert firings(cron, start_s * 1_000, end_s * 1_000) == expected
    assert cron.latest_between_ms(start_s * 1_000, end_s * 1_000 + 999, 10_000) == expected


# --- catching up, cost, hostile text --------------------------------------------------------------


def test_the_latest_of_a_year_of_minutes_are_found_quickly() -> None:
    cron = parse("TZ=Europe/Berlin * * * * *")
    end_ms = at_ms("2026-11-21 12:00:30")
    started = time.process_time()
    found = cron.latest_between_ms(end_ms - 365 * DAY_MS, end_ms, 1_000)

    assert time.process_time() - started < 1
    last_ms = at_ms("2026-11-21 12:00:00")
    assert found == [last_ms - ago * MINUTE_MS for ago in range(999, -1, -1)]


@pytest.mark.parametrize("expression", ["*/7 3 * * *", "@every 7s", "@every 1h"])
def test_the_latest_are_the_end_of_all(expression: str) -> None:
    cron = parse(expression, "Europe/Berlin")
    start_ms = at_ms("2026-03-27 00:00:00") + 123
    end_ms = start_ms + 4 * DAY_MS
    every = firings(cron, start_ms, end_ms)

    for count in (0, 1, 5, len(every), len(every) + 1):
        assert (
            cron.latest_between_ms(start_ms, end_ms, count) == every[max(0, len(every) - count) :]
        )
    assert cron.latest_between_ms(end_ms, start_ms, 5) == []
    assert cron.latest_between_ms(start_ms, start_ms, 5) == []


def test_parsing_is_remembered_but_not_across_zones() -> None:
    assert parse("0 0 * * *", "UTC") is parse("0 0 * * *", "UTC")
    assert parse("0 0 * * *", "UTC") is not parse("0 0 * * *", "Asia/Tokyo")


def test_without_a_zone_the_default_counts() -> None:
    tokyo = load_zone("Asia/Tokyo")
    cron = parse("0 9 * * *", tokyo)

    assert cron.next_after_ms(at_ms("2026-01-01 00:00:00") - 1) == at_ms("2026-01-01 00:00:00")
    assert parse("TZ=Local 0 9 * * *", tokyo).next_after_ms(0) == cron.next_after_ms(0)


PIECES = st.sampled_from("*?,-/.+@#LWhms159 \tµé\x00") | st.sampled_from(
    ("60", "9" * 20, "@every ", "@daily", "ns", "TZ=", "CRON_TZ=", "UTC ", "jan", "fri", "0 0 * * ")
)


def fires_or_says_why_not(expression: str) -> bool:
    """Whether a text is a cron expression; if not, the refusal says something that can be shown."""
    try:
        cron = parse(expression, "UTC")
    except CronRefused as refusal:
        message = str(refusal)
    else:
        next_ms = cron.next_after_ms(RECORDED_AT_MS)
        if next_ms is not None:
            assert next_ms > RECORDED_AT_MS
            assert cron.latest_between_ms(RECORDED_AT_MS, next_ms, 2) == [next_ms]
        return True
    assert message
    assert message.isprintable()
    return False


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=1_024) | st.lists(PIECES, max_size=200).map("".join).map(lambda t: t[:1024])
)
def test_any_text_is_a_cron_or_invalid(expression: str) -> None:
    fires_or_says_why_not(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "1" * 1_024,
        "1," * 510 + " * * *",
        ("0-59," * 80).rstrip(",") + " " + ("0-59/1," * 40).rstrip(",") + " 0-23 1-31 1-12 0-6",
        "@every " + "1h" * 500,
        "@every " + "1." * 500,
        "@every " + "9" * 1_000,
        "TZ=" + "a/" * 500 + " * * * * *",
        "* " * 512,
    ],
)
def test_hostile_text_is_read_quickly(expression: str) -> None:
    best_s = 1.0
    for attempt in range(5):  # the best of some, since the machine may be busy
        started = time.process_time()
        with suppress(CronRefused):
            parse(expression + " " * attempt, "UTC")
        best_s = min(best_s, time.process_time() - started)

    assert best_s < 0.005
