"""The protocol of streams, tried in all orders of events; and that the search notices defects."""

import pytest
from msgspec.structs import replace

from tests.helpers.repository import ROOT
from tests.helpers.seeds import RUNS_ALL
from tests.persistence.streams.search import LEASE_TICKS, Bounds, Result, search
from troth.core.limits import STREAM_DRIFT_PERCENT, STREAM_LEASE_MS, STREAM_TAKEOVER_WAIT_MS
from troth.persistence.streams import ownership
from troth.persistence.streams.ownership import TRANSITIONS, Occurrence, Ownership, Standing
from troth.persistence.streams.stream_frames import FrameKind, StreamFrame

LARGE = (Bounds(followers=0), Bounds(releases=0))
"""Together two owners, a follower, three appends, a release, a crash, and an unknown outcome."""
SMALL = Bounds(followers=0, appends=1, crashes=0, doubts=1)


@pytest.fixture(autouse=True)
def _ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "STREAM_LEASE_MS", LEASE_TICKS)
    monkeypatch.setattr(ownership, "STREAM_TAKEOVER_WAIT_MS", LEASE_TICKS)


def _assert_right(result: Result) -> None:
    assert result.complaint is None, (result.complaint, *result.way)


@pytest.mark.seeds
def test_nothing_goes_wrong_in_any_order_of_events() -> None:
    """All of it takes a minute, and is for `make seeds`; a part has no follower and no crash."""
    results = [search(bounds) for bounds in (LARGE if RUNS_ALL else (SMALL,))]

    for result in results:
        _assert_right(result)
    assert results[0].standings == set(Standing)


def test_nothing_goes_wrong_when_an_owner_crashes() -> None:
    _assert_right(search(Bounds(followers=0, appends=1, releases=0)))


def _owner_frame(number: int) -> StreamFrame:
    return StreamFrame(FrameKind.OWNER, number, number, number, 0, 0, 0, 0, b"")


def test_who_comes_in_the_place_of_a_process_that_ended_need_not_wait() -> None:
    """Nothing goes wrong, and it may answer as soon as it owns the stream."""
    _assert_right(search(Bounds(followers=0, appends=1, releases=0, crashes=0, successions=1)))
    read = Ownership().received(_owner_frame(1), 10).owner_has_ended()
    marked = Ownership(number=1, epoch=1, is_free=False, heard_ms=10)
    for own, may_answer in ((read, True), (marked, False), (marked.owner_has_ended(), True)):
        assert own.claim(_owner_frame(2), 10).acknowledged().may_answer(10) is may_answer


def test_a_process_that_is_taken_for_gone_and_is_not_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Ownership.received

    def received(own: Ownership, frame: StreamFrame, now_ms: int) -> Ownership:
        return right(own, frame, now_ms).owner_has_ended()

    monkeypatch.setattr(Ownership, "received", received)
    assert search(SMALL).complaint == "two nodes may answer"


def test_a_new_owner_that_does_not_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "STREAM_TAKEOVER_WAIT_MS", 0)

    assert search(SMALL).complaint == "two nodes may answer"


def test_a_lease_that_counts_from_the_acknowledgment_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Ownership.acknowledged

    def wrong(self: Ownership) -> Ownership:
        return replace(right(self), lease_until_ms=LEASE_TICKS)  # it is 0 now

    monkeypatch.setattr(Ownership, "acknowledged", wrong)

    assert search(SMALL).complaint is not None


def test_a_refusal_that_is_taken_for_success_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ownership, "unanswered", Ownership.acknowledged)

    assert search(SMALL).complaint is not None


def test_another_frame_that_is_taken_for_ours_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Ownership.found

    def wrong(self: Ownership, frame: StreamFrame | None) -> Ownership:
        return right(self, None if frame is None else self.in_flight)

    monkeypatch.setattr(Ownership, "found", wrong)

    assert search(SMALL).complaint is not None


def test_a_release_before_the_old_lease_is_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Ownership.claim

    def wrong(self: Ownership, frame: StreamFrame, now_ms: int) -> Ownership:
        return replace(right(self, frame, now_ms), serves_from_ms=0)

    monkeypatch.setattr(Ownership, "claim", wrong)

    assert search(SMALL._replace(claims=3)).complaint is not None


def test_an_owner_that_answers_after_it_has_sent_its_release_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(self: Ownership, now_ms: int) -> bool:
        return (
            self.standing in (Standing.OWNING, Standing.APPENDING, Standing.DOUBTED)
            and self.serves_from_ms <= now_ms < self.lease_until_ms
        )

    monkeypatch.setattr(Ownership, "may_answer", wrong)

    assert search(SMALL).complaint == "two nodes may answer"


def test_the_wait_is_longer_than_the_lease_by_the_drift_of_both_clocks() -> None:
    slow, fast = 1 - STREAM_DRIFT_PERCENT / 100, 1 + STREAM_DRIFT_PERCENT / 100

    assert STREAM_TAKEOVER_WAIT_MS / fast >= STREAM_LEASE_MS / slow


def test_a_new_owner_waits_for_the_lease_with_the_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "STREAM_TAKEOVER_WAIT_MS", LEASE_TICKS + 7)
    heard = Ownership(heard_ms=100, number=1, epoch=1, is_free=False)
    claim = StreamFrame(FrameKind.OWNER, 2, 2, 5, 0, 1, 0, 0, b"b")

    assert heard.claim(claim, 101).serves_from_ms == 100 + LEASE_TICKS + 7


def test_what_was_found_is_durable_only_when_something_later_is_acknowledged() -> None:
    frame = StreamFrame(FrameKind.OWNER, 1, 1, 7, 0, 1, 0, 0, b"n")
    own = Ownership().claim(frame, 10).unanswered().found(frame)

    assert own.standing is Standing.OWNING
    assert own.durable_number == 0
    assert not own.may_answer(10)
    assert own.alive_due_ms == 10
    later = own.append(StreamFrame(FrameKind.ALIVE, 2, 1, 7, 0, 1, 0, 0, b""), 10).acknowledged()
    assert later.durable_number == 2


def test_an_owner_may_not_release_before_it_may_answer() -> None:
    """Who claims after a release does not wait, and the owner before may still answer."""
    other = StreamFrame(FrameKind.OWNER, 1, 1, 6, 0, 1, 0, 0, b"m")
    claim = StreamFrame(FrameKind.OWNER, 2, 2, 7, 0, 1, 0, 0, b"n")
    own = Ownership().received(other, 10).claim(claim, 10).acknowledged()
    release = StreamFrame(FrameKind.RELEASED, 3, 2, 7, 0, 1, 0, 0, b"")

    with pytest.raises(AssertionError):
        own.append(release, 10)
    own.append(release, 10 + LEASE_TICKS)


def test_every_transition_leads_on() -> None:
    """Each standing but the first is reached, and each but the last two is left."""
    assert set(TRANSITIONS.values()) == set(Standing)
    assert {before for before, _ in TRANSITIONS} | {Standing.RELEASED, Standing.DEPOSED} == set(
        Standing
    )
    assert {occurrence for _, occurrence in TRANSITIONS} == set(Occurrence)


def test_the_page_of_states_shows_the_table() -> None:
    text = (ROOT / "persistence/streams/README.md").read_text()
    shown = text.partition("<!-- transitions -->")[2].partition("<!-- end -->")[0]
    rows = [tuple(row.strip("| ").split(" | ")) for row in shown.strip().splitlines()[2:]]

    assert rows == [(before, what, after) for (before, what), after in TRANSITIONS.items()]
