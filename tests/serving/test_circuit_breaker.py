"""A circuit breaker stops calls to a failing service and finds out by itself when it works again."""

from __future__ import annotations

from serving.circuit_breaker import WINDOW, Breaker


class TimedBreaker:
    def __init__(self, failures: int = 3, seconds: float = 10) -> None:
        self.now = 0.0
        self.opened = 0
        self.breaker = Breaker(failures, seconds, self._count, lambda: self.now)

    def _count(self) -> None:
        self.opened += 1

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.breaker.failed()


def test_it_opens_at_the_given_number_of_failures() -> None:
    timed = TimedBreaker()
    timed.fail(2)
    assert timed.breaker.allows()
    timed.fail(1)
    assert not timed.breaker.allows()
    assert timed.opened == 1


def test_a_few_failures_among_many_successes_do_not_open_it() -> None:
    timed = TimedBreaker()
    for number in range(300):
        timed.breaker.failed() if number % 3 == 0 else timed.breaker.succeeded()
    assert timed.breaker.closed


def test_it_opens_if_every_other_call_fails() -> None:
    timed = TimedBreaker()
    for number in range(WINDOW):
        timed.breaker.failed() if number % 2 else timed.breaker.succeeded()
    assert not timed.breaker.closed  # successes of calls from before it opened do not close it
    assert timed.opened == 1


def test_an_open_breaker_allows_one_trial_at_a_time() -> None:
    timed = TimedBreaker()
    timed.fail(3)
    timed.now = 9.9
    assert not timed.breaker.allows()
    timed.now = 10
    assert [timed.breaker.allows() for _ in range(3)] == [True, False, False]
    timed.fail(1)  # the trial
    timed.now = 19.9
    assert not timed.breaker.allows()
    timed.now = 20
    assert timed.breaker.allows()
    timed.breaker.succeeded()
    assert [timed.breaker.allows() for _ in range(3)] == [True] * 3
    timed.fail(2)  # failures before the success are forgotten
    assert timed.breaker.closed
    assert timed.opened == 1


def test_calls_that_waited_through_the_same_outage_count_as_one_failure() -> None:
    timed = TimedBreaker()
    timed.now = 5
    for started in (4.0, 4.2, 4.9):
        timed.breaker.failed(started)
    assert timed.breaker.closed
    for timed.now in (6, 7):  # started after the last failure
        timed.breaker.failed(timed.now - 0.5)
    assert not timed.breaker.closed


def test_a_trial_that_never_reports_back_does_not_keep_it_open() -> None:
    timed = TimedBreaker()
    timed.fail(3)
    timed.now = 10
    assert timed.breaker.allows()
    timed.now = 20
    assert timed.breaker.allows()
