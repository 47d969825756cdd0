"""Schemathesis sends what the description allows and what it forbids; every answer is one that it declares."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from running import Edge, Start, make_settings
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from serving.edge import openapi

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("TIDEGATE_SCHEMA_CASES") or 1000)
TAKE_INPUT = 2  # operations that cases are drawn for: those of /v1/recommendations
REFUSED = [400, 401, 403, 405, 408, 413]
PROBED = 50  # answers of each operation that are asked for again without a key, and with wrong ones
STRANGER = "x-schemathesis-unknown-property"  # whoever is on the way may add headers: unknown ones are not refused
LAST_YEARS = re.compile("0001-|9999-")  # an offset can move these out of range, which no schema can say
DESCRIPTION = openapi.describe(make_settings(Path(), "http://127.0.0.1:9"))
CONFIG = {"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}}

schema = schemathesis.openapi.from_dict(DESCRIPTION, config=schemathesis.Config.from_dict(CONFIG))
statuses: Counter[tuple[str, int]] = Counter()  # of the cases so far, by operation


@pytest.fixture
def tireless(start: Start) -> Edge:
    """An edge that never finds that too much is asked."""
    return start(rate_per_second=1e9, rate_burst=10**9)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A connection that is kept: a new one takes longer than a case."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def left_out(case: schemathesis.Case) -> list:
    """Checks that say nothing of this case, or nothing new."""
    checks = [negative_data_rejection] if STRANGER in case.headers else []
    if LAST_YEARS.search(f"{case.body} {case.query}"):
        checks.append(positive_data_acceptance)
    return [*checks, ignored_auth] if statuses[case.operation.label, 200] > PROBED else checks


def cases_of(method: str, path: str):
    """Hand a test every case of one operation. A test for each: schemathesis gives all operations of one test the same
    id, by which pytest-xdist would take them for one."""
    drawn = settings(
        max_examples=CASES // TAKE_INPUT, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )

    def decorate(test: Callable[..., None]) -> object:
        return schema.include(method=method, path=path).parametrize()(drawn(test))

    return decorate


def is_answered_as_described(case: schemathesis.Case, edge: Edge, session: requests.Session) -> None:
    headers = {"Authorization": f"Bearer {edge.key}"}
    got = case.call_and_validate(edge.url, session, headers=headers, excluded_checks=left_out(case))
    statuses[case.operation.label, got.status_code] += 1


@cases_of("POST", "/v1/recommendations")
def test_every_body(case: schemathesis.Case, tireless: Edge, session: requests.Session) -> None:
    is_answered_as_described(case, tireless, session)


@cases_of("GET", "/v1/recommendations")
def test_every_query(case: schemathesis.Case, tireless: Edge, session: requests.Session) -> None:
    is_answered_as_described(case, tireless, session)


@cases_of("GET", "/healthz")
def test_whether_it_lives(case: schemathesis.Case, tireless: Edge, session: requests.Session) -> None:
    is_answered_as_described(case, tireless, session)


@cases_of("GET", "/readyz")
def test_whether_it_is_ready(case: schemathesis.Case, tireless: Edge, session: requests.Session) -> None:
    is_answered_as_described(case, tireless, session)


def test_every_operation_was_asked() -> None:
    described = {f"{method.upper()} {path}" for path, methods in DESCRIPTION["paths"].items() for method in methods}
    if not statuses:
        pytest.skip("looks at what the tests above it sent, and they did not run")
    assert {operation for operation, _ in statuses} == described


def test_the_page_holds_the_description_that_was_tried(tireless: Edge) -> None:
    assert tireless.http.get("/openapi.json").json() == DESCRIPTION


def test_the_cases_were_so_many_and_of_both_kinds() -> None:
    if not statuses:
        pytest.skip("counts what the tests above it sent, and they did not run")
    assert statuses.total() >= CASES
    for method in ("GET", "POST"):
        for status in (200, 400):
            assert statuses[f"{method} /v1/recommendations", status] > CASES / 20
