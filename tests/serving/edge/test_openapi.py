"""The description and what is answered are one: fields, bounds, statuses."""

from __future__ import annotations

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start

from serving.edge import openapi
from serving.edge.answer import FIELDS, OWN_FIELDS, RUNGS
from serving.worker import request

PATH = "/v1/recommendations"


def declared(edge: Edge) -> dict:
    return edge.http.get("/openapi.json").json()


def test_the_request_is_what_the_worker_parses() -> None:
    assert set(openapi.REQUEST["properties"]) == set(request.FIELDS)
    assert openapi.REQUEST["additionalProperties"] is False
    assert (openapi.K["maximum"], openapi.K["default"]) == (request.MAX_K, request.DEFAULT_K)
    for name, length in (("user_id", openapi.MOST_TEXT), ("request_id", openapi.MOST_ID)):
        request.parse({name: "x" * length}, 0)
        with pytest.raises(request.RequestError):
            request.parse({name: "x" * (length + 1)}, 0)


@pytest.mark.parametrize("name", request.FIELDS)
def test_what_is_declared_as_null_is_taken_as_null(name: str) -> None:
    kinds = openapi.REQUEST["properties"][name]["type"]
    if "null" in kinds:
        request.parse({name: None}, 0)
    else:
        with pytest.raises(request.RequestError):
            request.parse({name: None}, 0)


def test_the_query_is_what_the_body_is_less_its_history(edge: Edge) -> None:
    parameters = declared(edge)["paths"][PATH]["get"]["parameters"]
    named = {each["name"] for each in parameters if each["in"] == "query"}
    assert named == set(request.FIELDS) - {"history", "context", "filters"}


@pytest.mark.parametrize("fault", ["well", "hung", "failing"])
def test_every_answer_has_the_declared_fields_and_no_other(edge: Edge, torchserve: FakeTorchServe, fault: str) -> None:
    edge.answer({"user_id": "ann", "k": 2})
    torchserve.mode = fault
    for body in ({"user_id": "ann", "k": 1}, {"k": 3}, {"user_id": "bob", "history": []}):
        answer = edge.answer(body)
        assert list(answer) == [*FIELDS, *OWN_FIELDS] == list(openapi.ANSWER_PROPERTIES)
        for name, value in answer.items():
            assert_fits(value, openapi.ANSWER_PROPERTIES[name])


def assert_fits(value: object, schema: dict) -> None:
    """As far as our own schemas go: types, enumerations, items and properties."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    python = {"string": str, "null": type(None), "number": (int, float), "array": list, "object": dict, "integer": int}
    assert any(isinstance(value, python[kind]) for kind in kinds), (value, schema)
    if "enum" in schema:
        assert value in schema["enum"]
    if isinstance(value, list):
        for entry in value:
            assert_fits(entry, schema["items"])
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value)
        for name, about in schema.get("properties", {}).items():
            if name in value:
                assert_fits(value[name], about)


def test_the_rungs_are_those_of_the_design() -> None:
    assert RUNGS == ("personalised", "segment", "popular", "cached", "static")


def test_every_status_that_is_given_is_declared(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(max_body_bytes=1024, rate_burst=60, rate_per_second=0.001)
    ann = edge.key_of("ann")
    given = {
        "post": {
            edge.ask({}).status_code,
            edge.ask(b"{").status_code,
            edge.ask({}, key="none").status_code,
            edge.ask({"user_id": "bob"}, key=ann).status_code,
            edge.ask(b" " * 2000).status_code,
            408,  # tests/serving/edge/test_abuse.py brings these about
            431,
        },
        "get": {
            408,
            431,
            edge.get().status_code,
            edge.get("k=0").status_code,
            edge.get(key="none").status_code,
            edge.get("user_id=bob", key=ann).status_code,
        },
    }
    while edge.ask({}).status_code != 429:
        pass
    given["post"].add(429)
    given["get"].add(edge.get().status_code)
    for method, statuses in given.items():
        responses = declared(edge)["paths"][PATH][method]["responses"]
        assert {str(status) for status in statuses} == set(responses)
        for status, about in responses.items():
            name = "Answer" if status == "200" else "Error"
            assert about["content"]["application/json"]["schema"]["$ref"].endswith(name)


def test_an_error_has_the_declared_fields_and_no_other(edge: Edge) -> None:
    for got in (edge.ask(b"{"), edge.ask({}, key="none"), edge.get("k=0"), edge.http.get("/nowhere")):
        assert list(got.json()) == list(openapi.ERROR["properties"])
        assert_fits(got.json(), openapi.ERROR)
        assert got.json()["code"] == got.status_code


def test_the_keys_headers_are_the_declared_ones(edge: Edge) -> None:
    schemes = declared(edge)["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert edge.http.get(PATH, headers={schemes["header"]["name"]: edge.key}).status_code == 200
    for path in ("/healthz", "/readyz"):
        assert declared(edge)["paths"][path]["get"]["security"] == []
        assert edge.http.get(path).status_code == 200
