"""Routes, health and readiness, the documentation page; and that answers are what the OpenAPI description declares."""

from __future__ import annotations

import re

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start, wait_until

from serving.edge.answer import CLIENT_FIELDS, FIELDS, SOURCES
from serving.edge.models import ErrorResponse, Readiness, RecommendationResponse
from serving.worker.request import RecommendationRequest

PATH = "/v1/recommendations"


def description(edge: Edge) -> dict:
    return edge.http.get("/openapi.json").json()


def test_the_errors_of_unknown_paths_and_methods_name_what_exists(edge: Edge) -> None:
    for path in ("/v2/recommendations", "/metrics", "/v1/recommendations/"):  # metrics have an address of their own
        got = edge.http.get(path)
        assert (got.status_code, got.json()["field"]) == (404, "path")
    for path, allowed in ((PATH, "GET, POST"), ("/livez", "GET"), ("/openapi.json", "GET")):
        got = edge.http.delete(path)
        assert (got.status_code, got.json()["code"], got.json()["field"]) == (405, 405, "method")
        assert set(allowed.split(", ")) <= set(got.headers["allow"].split(", "))


def test_health_and_readiness_need_no_key(edge: Edge) -> None:
    assert edge.http.get("/livez").json() == {"status": "alive"}
    got = edge.http.get("/readyz")
    assert got.status_code == 200
    assert got.json() == {
        "status": "ready",
        "sources": ["model", "cache", "popular", "static"],
        "keys": True,
        "torchserve": True,
        "store": True,
        "popular_list": True,
        "static_list": True,
        "model_version": "1.0",
    }


def test_an_edge_stays_ready_while_torchserve_is_down_and_shows_it(start: Start, torchserve: FakeTorchServe) -> None:
    before = start(breaker_failures=1000)  # as long as no request comes, they are far away
    torchserve.stop()
    got = start(warm=False, cache="off").http.get("/readyz")
    assert (got.status_code, got.json()["torchserve"]) == (200, False)
    assert (got.json()["status"], got.json()["sources"]) == ("degraded", ["static"])
    wait_until(lambda: before.http.get("/readyz").json()["status"] == "degraded")  # without any request
    assert before.http.get("/readyz").json()["sources"] == ["cache", "popular", "static"]
    wait_until(lambda: before.count("tidegate_edge_degraded") == 1)
    torchserve.start()
    wait_until(lambda: before.http.get("/readyz").json()["status"] == "ready")
    wait_until(lambda: before.count("tidegate_edge_degraded") == 0)
    torchserve.stop()
    bare = start(warm=False, artifact=None, dataset="never-exported")
    got = bare.http.get("/readyz")
    assert (got.status_code, got.json()["status"]) == (503, "not ready")
    bare.settings.keys_path.write_text("[]", encoding="utf-8")
    bare.service.authenticator.reload(force=True)
    assert bare.http.get("/readyz").json()["keys"] is False


def test_answers_are_counted_and_timed_by_source(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "ann"})
    torchserve.stop()
    edge.answer({"user_id": "bob"})
    for source in ("personalized", "popular"):
        assert edge.count("tidegate_edge_answer_seconds_count", source=source) == 1
    assert edge.count("tidegate_edge_answers_total", source="popular", cache="none", bucket="") == 1
    assert edge.count("tidegate_edge_upstream_seconds_count", kind="unreachable") >= 1
    assert edge.count("tidegate_edge_consent_total", consent="not_asked") == 2


def test_the_documentation_page_loads_nothing_from_elsewhere(edge: Edge) -> None:
    page = edge.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 2
    for link in links:
        assert link.startswith("/")
        assert edge.http.get(link).status_code == 200


def test_every_answer_carries_the_safety_headers(edge: Edge) -> None:
    for got in (edge.ask({}), edge.ask(b"{"), edge.http.get("/nowhere")):
        assert got.headers["cache-control"] == "no-store"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert "server" not in got.headers


def test_the_declared_body_is_what_the_worker_checks(edge: Edge) -> None:
    document = description(edge)
    reference = document["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    declared = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    assert set(declared["properties"]) == set(RecommendationRequest.model_fields)
    assert declared["additionalProperties"] is False


def test_the_declared_query_has_the_fields_of_the_body_but_those_with_parts(edge: Edge) -> None:
    parameters = description(edge)["paths"][PATH]["get"]["parameters"]
    names = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
    assert names == set(RecommendationRequest.model_fields) - {"history", "context", "filters"}


def test_the_declared_sources_are_those_of_answers(edge: Edge) -> None:
    declared = description(edge)["components"]["schemas"]["RecommendationResponse"]["properties"]["source"]
    assert tuple(declared["enum"]) == SOURCES


@pytest.mark.parametrize("fault", ["well", "hung", "failing"])
def test_every_answer_has_the_declared_fields_and_no_other(edge: Edge, torchserve: FakeTorchServe, fault: str) -> None:
    edge.answer({"user_id": "ann", "k": 2})
    torchserve.mode = fault
    for body in ({"user_id": "ann", "k": 1}, {"k": 3}, {"user_id": "bob", "history": []}):
        answer = edge.answer(body)
        assert list(answer) == [*FIELDS, *CLIENT_FIELDS] == list(RecommendationResponse.model_fields)
        RecommendationResponse.model_validate(answer, strict=True)
    Readiness.model_validate(edge.http.get("/readyz").json(), strict=True)


def test_an_error_has_the_declared_fields_and_no_other(edge: Edge) -> None:
    for got in (edge.ask(b"{"), edge.ask({}, key="none"), edge.get("k=0"), edge.http.get("/nowhere")):
        error = ErrorResponse.model_validate(got.json(), strict=True)
        assert list(got.json()) == list(ErrorResponse.model_fields)
        assert error.code == got.status_code


def test_every_status_that_occurs_is_declared(start: Start) -> None:
    edge = start(max_body_bytes=1024, rate_burst=60, rate_per_second=0.001)
    ann = edge.key_of("ann")
    statuses = {
        "post": {
            edge.ask({}).status_code,
            edge.ask(b"{").status_code,
            edge.ask({}, key="none").status_code,
            edge.ask({"user_id": "bob"}, key=ann).status_code,
            edge.ask(b" " * 2000).status_code,
            408,  # test_request_parsing.py brings this about
            edge.ask({}, x_long="a" * 40_000).status_code,
        },
        "get": {
            edge.get().status_code,
            edge.get("k=0").status_code,
            edge.get(key="none").status_code,
            edge.get("user_id=bob", key=ann).status_code,
            edge.get(x_long="a" * 40_000).status_code,
        },
    }
    while edge.ask({}).status_code != 429:
        pass
    statuses["post"].add(429)
    statuses["get"].add(edge.get().status_code)
    for method, occurred in statuses.items():
        responses = description(edge)["paths"][PATH][method]["responses"]
        assert {str(status) for status in occurred} == set(responses)
        for status, response in responses.items():
            name = "RecommendationResponse" if status == "200" else "ErrorResponse"
            assert response["content"]["application/json"]["schema"]["$ref"].endswith(name)


def test_the_declared_headers_carry_a_key(edge: Edge) -> None:
    schemes = description(edge)["components"]["securitySchemes"].values()
    (header,) = [scheme["name"] for scheme in schemes if scheme["type"] == "apiKey"]
    assert [scheme["scheme"] for scheme in schemes if scheme["type"] == "http"] == ["bearer"]
    assert edge.http.get(PATH, headers={header: edge.key}).status_code == 200
    for path in ("/livez", "/readyz"):
        assert "security" not in description(edge)["paths"][path]["get"]


def test_a_fault_of_the_edge_itself_is_answered_too(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(edge.service.trial, "bucket", broken)
    answer = edge.answer({"user_id": "ann"})
    assert answer["source"] == "static"
    assert "a mistake of ours" not in answer["reason"]
    assert "a mistake of ours" in caplog.text
    assert edge.count("tidegate_edge_errors_total") == 1
