"""Schemathesis sends what the OpenAPI description allows and what it forbids; every answer is one that it declares."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from running import Edge, Start, make_settings
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from serving.edge.app import create_app

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("TIDEGATE_SCHEMA_CASES") or 500)
OPERATIONS_WITH_INPUT = 2  # those of /v1/recommendations: only they have cases to generate
REFUSED = [400, 401, 403, 405, 408, 413]
MAX_KEY_PROBES = 50  # answers of each operation that are requested again without a key, and with wrong ones
UNKNOWN_HEADER = (
    "x-schemathesis-unknown-property"  # whoever is on the way may add headers: unknown ones are not refused
)
LAST_YEARS = re.compile("0001-|9999-")  # an offset can move these out of range, which no schema can say
CONFIG = {"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}}

with tempfile.TemporaryDirectory() as home:
    DESCRIPTION = create_app(make_settings(Path(home), "http://127.0.0.1:9")).openapi()
schema = schemathesis.openapi.from_dict(DESCRIPTION, config=schemathesis.Config.from_dict(CONFIG))
statuses: Counter[tuple[str, int]] = Counter()  # of the cases so far, by operation


@pytest.fixture
def unlimited(start: Start) -> Edge:
    """An edge without a rate limit."""
    return start(rate_per_second=1e9, rate_burst=10**9)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A connection that is kept: a new one takes longer than a case."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def checks_to_skip(case: schemathesis.Case) -> list:
    """Checks that do not apply to this case, or would show nothing new."""
    checks = [negative_data_rejection] if UNKNOWN_HEADER in case.headers else []
    if LAST_YEARS.search(f"{case.body} {case.query}"):
        checks.append(positive_data_acceptance)
    return [*checks, ignored_auth] if statuses[case.operation.label, 200] > MAX_KEY_PROBES else checks


def cases_of(method: str, path: str):
    """Hand a test every case of one operation. A test for each: schemathesis gives all operations of one test the same
    id, by which pytest-xdist would take them for one."""
    drawn = settings(
        max_examples=CASES // OPERATIONS_WITH_INPUT,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Callable[..., None]) -> object:
        return schema.include(method=method, path=path).parametrize()(drawn(test))

    return decorate


def check_answer(case: schemathesis.Case, edge: Edge, session: requests.Session) -> None:
    headers = {"Authorization": f"Bearer {edge.key}"}
    got = case.call_and_validate(edge.url, session, headers=headers, excluded_checks=checks_to_skip(case))
    statuses[case.operation.label, got.status_code] += 1


@cases_of("POST", "/v1/recommendations")
def test_every_body(case: schemathesis.Case, unlimited: Edge, session: requests.Session) -> None:
    check_answer(case, unlimited, session)


@cases_of("GET", "/v1/recommendations")
def test_every_query(case: schemathesis.Case, unlimited: Edge, session: requests.Session) -> None:
    check_answer(case, unlimited, session)


@cases_of("GET", "/livez")
def test_health(case: schemathesis.Case, unlimited: Edge, session: requests.Session) -> None:
    check_answer(case, unlimited, session)


@cases_of("GET", "/readyz")
def test_readiness(case: schemathesis.Case, unlimited: Edge, session: requests.Session) -> None:
    check_answer(case, unlimited, session)


def test_every_operation_was_called() -> None:
    described = {f"{method.upper()} {path}" for path, methods in DESCRIPTION["paths"].items() for method in methods}
    if not statuses:
        pytest.skip("looks at what the tests above it sent, and they did not run")
    assert {operation for operation, _ in statuses} == described


def test_the_served_description_is_the_tested_one(unlimited: Edge) -> None:
    assert unlimited.http.get("/openapi.json").json() == DESCRIPTION


def test_there_were_enough_valid_and_invalid_cases() -> None:
    if not statuses:
        pytest.skip("counts what the tests above it sent, and they did not run")
    assert statuses.total() >= CASES
    for method in ("GET", "POST"):
        for status in (200, 400):
            assert statuses[f"{method} /v1/recommendations", status] > CASES / 20
