"""A key may send a burst, and then at its steady rate; the others notice nothing."""

from __future__ import annotations

from web.rate_limit import RateLimit


def test_a_burst_is_allowed_and_then_the_steady_rate() -> None:
    now = [100.0]
    limit = RateLimit(per_second=2, burst=3, clock=lambda: now[0])
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] += 0.25
    assert limit.take("a") == 0.25  # half a token has come back
    now[0] += 0.25
    assert limit.take("a") == 0
    now[0] += 3600
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 0.5]  # never more than the burst


def test_a_key_over_its_limit_costs_other_keys_nothing() -> None:
    limit = RateLimit(per_second=1, burst=1, clock=lambda: 0.0)
    assert limit.take("a") == 0
    assert limit.take("a") > 0
    assert limit.take("b") == 0


def test_only_as_many_bytes_are_taken_as_the_bucket_holds() -> None:
    now = [100.0]
    limit = RateLimit(per_second=100, burst=300, clock=lambda: now[0])
    assert [limit.take("a", 200), limit.take("a", 200), limit.take("a", 100)] == [0, 1, 0]
    now[0] += 2
    assert [limit.take("a", 200), limit.take("a", 1)] == [0, 0.01]
