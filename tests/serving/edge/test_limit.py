"""How often a key may ask."""

from __future__ import annotations

import pytest
from running import Start

from serving.edge.limit import Limit


def test_a_burst_then_as_many_as_come_back() -> None:
    now = [100.0]
    limit = Limit(per_second=2, burst=3, clock=lambda: now[0])
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] += 0.25
    assert limit.take("a") == 0.25  # half a token has come back
    now[0] += 0.25
    assert limit.take("a") == 0
    now[0] += 3600
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 0.5]  # never more than the burst


def test_a_key_that_asks_too_often_costs_the_others_nothing() -> None:
    limit = Limit(per_second=1, burst=1, clock=lambda: 0.0)
    assert limit.take("a") == 0
    assert limit.take("a") > 0
    assert limit.take("b") == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_too_many_requests_are_a_429_that_says_when_to_go_on(start: Start, workers: int) -> None:
    edge = start(rate_per_second=0.04, rate_burst=8, workers=workers)
    statuses = [edge.ask({}).status_code for _ in range(8 // workers + 1)]
    assert statuses == [200] * (8 // workers) + [429]
    got = edge.get("k=1")
    assert got.status_code == 429
    assert 0 < int(got.headers["retry-after"]) <= 25 * workers
    assert (got.json()["code"], got.json()["field"]) == (429, None)
    assert edge.count("tidegate_edge_refusals_total", status="429") == 2
