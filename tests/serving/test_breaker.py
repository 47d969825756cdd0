"""A breaker leaves alone who keeps failing, and finds out by itself when that is over."""

from __future__ import annotations

from serving.circuit_breaker import WINDOW, Breaker


class Clocked:
    def __init__(self, failures: int = 3, seconds: float = 10) -> None:
        self.now = 0.0
        self.opened = 0
        self.breaker = Breaker(failures, seconds, self._count, lambda: self.now)

    def _count(self) -> None:
        self.opened += 1

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.breaker.failed()


def test_it_opens_at_so_many_failures_and_not_before() -> None:
    clocked = Clocked()
    clocked.fail(2)
    assert clocked.breaker.allows()
    clocked.fail(1)
    assert not clocked.breaker.allows()
    assert clocked.opened == 1


def test_a_few_failures_among_many_successes_open_nothing() -> None:
    clocked = Clocked()
    for number in range(300):
        clocked.breaker.failed() if number % 3 == 0 else clocked.breaker.succeeded()
    assert clocked.breaker.closed


def test_one_that_answers_every_other_time_is_rested_too() -> None:
    clocked = Clocked()
    for number in range(WINDOW):
        clocked.breaker.failed() if number % 2 else clocked.breaker.succeeded()
    assert not clocked.breaker.closed  # successes of those who asked before it opened do not close it
    assert clocked.opened == 1


def test_after_its_rest_one_at_a_time_may_try() -> None:
    clocked = Clocked()
    clocked.fail(3)
    clocked.now = 9.9
    assert not clocked.breaker.allows()
    clocked.now = 10
    assert [clocked.breaker.allows() for _ in range(3)] == [True, False, False]
    clocked.fail(1)  # the trial
    clocked.now = 19.9
    assert not clocked.breaker.allows()
    clocked.now = 20
    assert clocked.breaker.allows()
    clocked.breaker.succeeded()
    assert [clocked.breaker.allows() for _ in range(3)] == [True] * 3
    clocked.fail(2)  # what failed before the success is forgotten
    assert clocked.breaker.closed
    assert clocked.opened == 1


def test_one_pause_that_everybody_waits_through_is_one_failure() -> None:
    clocked = Clocked()
    clocked.now = 5
    for asked in (4.0, 4.2, 4.9):
        clocked.breaker.failed(asked)
    assert clocked.breaker.closed
    for clocked.now in (6, 7):  # asked after the failure before
        clocked.breaker.failed(clocked.now - 0.5)
    assert not clocked.breaker.closed


def test_a_trial_that_never_reports_back_keeps_nobody_out_for_ever() -> None:
    clocked = Clocked()
    clocked.fail(3)
    clocked.now = 10
    assert clocked.breaker.allows()
    clocked.now = 20
    assert clocked.breaker.allows()
