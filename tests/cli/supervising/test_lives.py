"""The lives of processes, with times that the test chooses."""

from troth.cli.supervising.lives import (
    BACK_OFFS_S,
    DOWN_AFTER_S,
    FIRST_WORD_S,
    KILL_AFTER_S,
    STEADY_AFTER_S,
    Act,
    LifeStage,
    Lives,
)


def test_ends_are_followed_by_longer_and_longer_pauses() -> None:
    (life,) = Lives.of(1, 100.0).lives
    now_s, pauses = 100.0, []
    for number in range(8):
        assert life.act(now_s) is Act.START
        life.started(now_s, number)
        now_s += 1
        life.ended(now_s, is_wanted=False)
        pauses.append(life.due_s() - now_s)
        if pauses[-1]:
            assert life.act(life.due_s() - 0.01) is None
        now_s = life.due_s()
    assert pauses == [*BACK_OFFS_S, 5.0, 5.0, 5.0]
    assert pauses[:5] == [0, 0.5, 1, 2, 5]


def test_a_process_that_has_served_for_long_is_started_at_once_again() -> None:
    (life,) = Lives.of(1, 0.0).lives
    for now_s in (10.0, 20.0, 30.0):
        life.started(now_s, 1)
        life.became_ready(now_s)
        life.ended(now_s + 1, is_wanted=False)
    assert life.due_s() == 31 + BACK_OFFS_S[2]
    life.started(40.0, 1)
    life.became_ready(50.0)
    life.ended(50.0 + STEADY_AFTER_S, is_wanted=False)
    assert life.act(50.0 + STEADY_AFTER_S) is Act.START


def test_silence_makes_it_down_and_then_ends_it() -> None:
    lives = Lives.of(2, 0.0)
    life = lives.lives[0]
    life.started(0.0, 7)
    life.heard(1.0)
    life.is_listening = True
    assert lives.peers() == {0: 7}
    assert life.due_s() == 1 + DOWN_AFTER_S
    assert life.act(1 + DOWN_AFTER_S - 0.1) is None
    assert lives.peers() == {0: 7}
    assert life.act(1 + DOWN_AFTER_S) is None
    assert lives.peers() == {}
    assert life.due_s() == 1 + KILL_AFTER_S
    life.heard(5.0)
    assert lives.peers() == {0: 7}, "it was only slow"
    assert life.act(5 + KILL_AFTER_S - 0.1) is None
    assert life.act(5 + KILL_AFTER_S) is Act.KILL
    assert life.act(6 + KILL_AFTER_S) is None, "once is enough"
    assert life.due_s() == float("inf")
    life.ended(6 + KILL_AFTER_S, is_wanted=False)
    assert life.act(6 + KILL_AFTER_S) is Act.START


def test_a_process_has_time_until_its_first_word() -> None:
    """Loading modules can take long on a busy machine."""
    (life,) = Lives.of(1, 0.0).lives
    life.started(0.0, 1)
    assert life.act(KILL_AFTER_S + 1) is None
    assert not life.is_silent
    assert life.act(FIRST_WORD_S) is Act.KILL


def test_a_time_in_which_the_supervisor_stood_still_is_no_silence() -> None:
    (life,) = Lives.of(1, 0.0).lives
    life.started(0.0, 1)
    life.heard(1.0)
    life.excuse(100.0)
    assert life.act(102.0) is None
    assert not life.is_silent
    assert life.act(101 + KILL_AFTER_S) is Act.KILL


def test_a_wanted_end_is_the_last() -> None:
    lives = Lives.of(2, 0.0)
    one, other = lives.lives
    one.started(0.0, 1)
    one.told_to_stop()
    other.told_to_stop()
    assert (one.stage, other.stage) == (LifeStage.STOPPING, LifeStage.GONE)
    assert not lives.are_gone
    one.ended(1.0, is_wanted=True)
    assert lives.are_gone
    assert one.act(100.0) is None
