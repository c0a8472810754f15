"""Failed attempts: who has to wait, for how long, and that the table stays small."""

import pytest

from troth.core import limits
from troth.http.identity import attempts as module
from troth.http.identity.attempts import Attempts

WINDOW_MS = limits.FAILED_ATTEMPTS_WINDOW_MS


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time_ms = 1_000_000

    def __call__(self) -> int:
        return self.time_ms


def test_only_the_address_that_failed_waits_until_its_window_ends() -> None:
    clock = Clock()
    attempts = Attempts(2, clock)
    attempts.failed("10.0.0.1")
    clock.time_ms += 1000
    assert attempts.wait_ms("10.0.0.1") == 0
    attempts.failed("10.0.0.1")

    assert attempts.wait_ms("10.0.0.1") == WINDOW_MS - 1000
    assert attempts.wait_ms("10.0.0.2") == 0
    assert attempts.wait_ms(None) == 0
    clock.time_ms += WINDOW_MS - 1000
    assert attempts.wait_ms("10.0.0.1") == 0
    attempts.failed("10.0.0.1")
    assert attempts.wait_ms("10.0.0.1") == 0, "a new window has begun"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("odd:address", "odd:address", True),
    ],
)
def test_an_ipv6_network_counts_as_one_address(one: str, other: str, same: bool) -> None:
    attempts = Attempts(1, Clock())
    attempts.failed(one)

    assert (attempts.wait_ms(other) > 0) == same


def test_the_table_forgets_who_failed_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAILED_ATTEMPTS_ADDRESSES_COUNT", 2)
    attempts = Attempts(1, Clock())
    for peer in ("a", "b", "a", "c"):
        attempts.failed(peer)

    assert [attempts.wait_ms(peer) > 0 for peer in "abc"] == [True, False, True]
    assert attempts.statistics().addresses_count == 2
    assert attempts.statistics().counted_total_count == 4


def test_a_clock_that_is_set_back_locks_nobody_out_for_long() -> None:
    clock = Clock()
    attempts = Attempts(1, clock)
    attempts.failed("a")
    clock.time_ms -= 3_600_000
    attempts.failed("a")

    assert attempts.wait_ms("a") <= WINDOW_MS


def test_without_a_limit_nobody_waits() -> None:
    attempts = Attempts(0, Clock())
    for _ in range(100):
        attempts.failed("a")

    assert attempts.wait_ms("a") == 0
    assert attempts.statistics().addresses_count == 0
