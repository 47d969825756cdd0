"""Schemathesis sends what the OpenAPI description allows and what it forbids; every answer is one that it declares."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from collector_app import RunningCollector
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import ignored_auth

from data.collect.app import create_app
from data.collect.settings import CollectSettings

pytestmark = pytest.mark.slow

GIVEN = os.environ.get("TIDEGATE_SCHEMA_CASES")
CASES = int(GIVEN or 55)
OPERATIONS_WITH_BODY = 11
like_another = pytest.mark.skipif(not GIVEN, reason="like /v1/track or /v1/batch; TIDEGATE_SCHEMA_CASES=500 tests it")
REFUSED = [200, 400, 401, 403, 405, 408, 413, 415]  # 200: a wrong event gets the verdict `rejected`
MAX_KEY_PROBES = 2  # answers of each operation that are requested again without a key, and with wrong ones
CONFIG = {"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}}

with tempfile.TemporaryDirectory() as home:
    DESCRIPTION = create_app(CollectSettings(home=Path(home))).openapi()
schema = schemathesis.openapi.from_dict(DESCRIPTION, config=schemathesis.Config.from_dict(CONFIG))
statuses: Counter[tuple[str, int]] = Counter()  # of the cases so far, by operation


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCollector]:
    running = RunningCollector(tmp_path_factory.mktemp("collect"), events_per_second=1e9, bytes_per_second=1e12)
    running.key = running.make_key("shop", profiles=True)
    running.app.state.service.authenticator.reload(force=True)
    yield running
    running.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def cases_of(**operations: str):
    """Hand a test every case of some operations."""
    drawn = settings(
        max_examples=max(1, CASES // OPERATIONS_WITH_BODY),
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Callable[..., None]) -> object:
        return schema.include(**operations).parametrize()(drawn(test))

    return decorate


def check_answer(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    skipped = [ignored_auth] if statuses[case.operation.label, 200] > MAX_KEY_PROBES else []
    headers = {"Authorization": f"Bearer {collector.key}"}
    got = case.call_and_validate(collector.url, session, headers=headers, excluded_checks=skipped)
    statuses[case.operation.label, got.status_code] += 1


@cases_of(method="POST", path="/v1/track")
def test_track(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@like_another
@cases_of(method="POST", path="/v1/identify")
def test_identify(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@like_another
@cases_of(method="POST", path="/v1/page")
def test_page(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@like_another
@cases_of(method="POST", path="/v1/screen")
def test_screen(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@like_another
@cases_of(method="POST", path="/v1/group")
def test_group(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@like_another
@cases_of(method="POST", path="/v1/alias")
def test_alias(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@cases_of(method="POST", path="/v1/batch")
def test_batch(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@like_another
@cases_of(method="POST", path="/v1/import")
def test_import(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@cases_of(method="POST", path="/v1/users")
def test_users(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@cases_of(method="POST", path="/v1/items")
def test_items(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@cases_of(method="POST", path="/v1/validate")
def test_validate(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@cases_of(method="GET", path="/v1/schema")
def test_schema(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@cases_of(method="GET", path="/v1/projects/{write_key}/settings")
def test_source_settings(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@cases_of(method="GET", path="/livez")
def test_liveness(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


@cases_of(method="GET", path="/readyz")
def test_readiness(case: schemathesis.Case, collector: RunningCollector, session: requests.Session) -> None:
    check_answer(case, collector, session)


def test_every_operation_was_called() -> None:
    if not (statuses and GIVEN):
        pytest.skip("looks at what all tests above it sent, and some did not run")
    described = {f"{method.upper()} {path}" for path, methods in DESCRIPTION["paths"].items() for method in methods}
    assert {operation for operation, _ in statuses} == described


def test_there_were_accepted_and_refused_bodies() -> None:
    if not statuses:
        pytest.skip("counts what the tests above it sent, and they did not run")
    for name in ("track", "batch", "validate"):
        assert min(statuses[f"POST /v1/{name}", status] for status in (200, 400)) > 5


def test_the_served_description_is_the_tested_one(collector: RunningCollector) -> None:
    assert collector.client.get("/openapi.json").json() == DESCRIPTION
