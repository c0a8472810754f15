"""Requests are noted one by one and counted together: who reads them must not see a difference."""

from troth.http.metrics.requests import AnsweredRequests

MANY = 1_000


def test_every_answer_counts_whenever_they_are_read() -> None:
    requests = AnsweredRequests()
    for number in range(1, MANY + 1):
        requests.answered("read", 200, 0.001 * (number % 2))
        if number in (1, 255, 256, 257, MANY):
            (durations,) = requests.durations().values()
            assert durations.count == number
            assert requests.totals() == (number, 0)
            assert requests.by_status() == {("read", "200"): number}
    assert durations.counts[0] == durations.counts[3] == MANY / 2
    assert round(durations.sum, 6) == 0.001 * MANY / 2


def test_streams_are_answers_without_a_duration() -> None:
    requests = AnsweredRequests()
    requests.count("stream", 200, None)
    requests.count("read", 404, 0.1)
    assert requests.totals() == (2, 1)
    assert set(requests.durations()) == {"read"}
