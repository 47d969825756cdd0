"""The dashboard and the alerts use metrics that exist, and each explains itself."""

from __future__ import annotations

import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import promql
import pytest
import yaml
from monitoring_files import (
    ALERTS,
    ASKED,
    DASHBOARD,
    EXPRESSIONS,
    FOLDER,
    PANELS,
    PROMETHEUS,
    SHOWN,
    TORCHSERVES,
    WORKERS,
)
from prometheus_client import generate_latest

from serving.edge.service import Metrics
from serving.edge.settings import EdgeSettings
from serving.settings import ServerSettings
from serving.worker import handler

OURS = "tidegate_edge_"
PROMETHEUS_OWN = {"up"}


def edge_page() -> str:
    metrics = Metrics()
    return generate_latest(metrics.registry).decode()


@pytest.mark.parametrize("title", ASKED)
def test_every_metric_in_an_expression_exists(title: str) -> None:
    counted = promql.exposed(edge_page()) | WORKERS | TORCHSERVES | PROMETHEUS_OWN
    for expression in ASKED[title]:
        assert promql.metrics(expression)
        assert promql.metrics(expression) <= counted


def test_every_metric_of_the_edge_is_on_the_dashboard() -> None:
    shown = {name for each in SHOWN.values() for expression in each for name in promql.metrics(expression)}
    histograms = {"tidegate_edge_answer_seconds", "tidegate_edge_upstream_seconds"}
    families = {name for name in promql.exposed(edge_page()) if name.endswith("_total")}
    assert families | WORKERS <= shown
    assert all(any(name.startswith(histogram) for name in shown) for histogram in histograms)


def test_every_label_in_an_expression_exists() -> None:
    metrics = Metrics()
    of_edge = {part._name: set(part._labelnames) for part in vars(metrics).values() if hasattr(part, "_labelnames")}
    of_workers = {
        name: {*handler.MODEL_LABELS, label} for name, label in [*handler.LABEL.items(), (handler.MEMORY, "worker")]
    }
    every = set().union(*of_edge.values(), *of_workers.values())
    for expression in EXPRESSIONS:
        for name, labels in promql.labels(expression).items():
            family = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_total")
            known = of_edge.get(family) or of_workers.get(name) or {"job"}
            assert labels <= known, expression
        assert promql.grouped(expression) <= every, expression


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_a_title_a_description_and_a_unit(panel: dict) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {
        "${datasource}"
    }
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_titles_and_ids_are_unique() -> None:
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_panels_do_not_overlap_or_exceed_the_width() -> None:
    def area(panel: dict) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not area(one) & area(other), (one["title"], other["title"])


def test_the_datasource_is_a_variable_of_the_dashboard() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_a_summary_and_a_description(rule: dict) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


def test_the_example_scrapes_both_services_at_their_default_ports() -> None:
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in PROMETHEUS["scrape_configs"]}
    assert targets == {
        "tidegate-edge": [f"127.0.0.1:{EdgeSettings.model_fields['metrics_port'].default}"],
        "tidegate-torchserve": [f"127.0.0.1:{ServerSettings.model_fields['metrics_port'].default}"],
    }
    jobs = {label for rule in ALERTS for label in promql.STRING.findall(rule["expr"]) if "tidegate-" in label}
    assert jobs == {f'"{name}"' for name in targets}
    assert all((FOLDER / file).is_file() for file in PROMETHEUS["rule_files"])


def promtool(*arguments: object) -> None:
    """Run it; skips where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration_and_all_expressions(tmp_path: Path) -> None:
    rule_list = [  # promtool reads rules, so expressions of the dashboard become rules
        {"record": f"dashboard:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rule_list}]}), encoding="utf-8")
    promtool("check", "config", FOLDER / "prometheus.yml")
    promtool("check", "rules", rules)


EVENLY, NEVER = "0+60x60", "0+0x60"  # one per second for an hour, and none
ANSWERS, LATE = "tidegate_edge_answers_total", "tidegate_edge_late_total"
ROLLBACKS = "tidegate_edge_rollbacks_total"
OPENED, LINES = "tidegate_edge_breaker_opened_total", "tidegate_edge_served_lines_total"
FIRING = [  # alert, series that fire it, series that do not
    ("TidegateEdgeDown", {'up{job="tidegate-edge"}': "0+0x60"}, {'up{job="tidegate-edge"}': "1+0x60"}),
    (
        "TidegateTorchServeDown",
        {'up{job="tidegate-torchserve"}': "0+0x60"},
        {'up{job="tidegate-torchserve"}': "1+0x60"},
    ),
    ("TidegateDegraded", {"tidegate_edge_degraded": "1+0x60"}, {"tidegate_edge_degraded": NEVER}),
    (
        "TidegateFewPersonalized",
        {f'{ANSWERS}{{source="static"}}': EVENLY},  # there is no series of personalized answers at all
        {f'{ANSWERS}{{source="static"}}': EVENLY, f'{ANSWERS}{{source="personalized"}}': "0+90x60"},
    ),
    (
        "TidegateAnswersLate",
        {f'{LATE}{{source="popular"}}': "0+1x60", f'{ANSWERS}{{source="popular"}}': EVENLY},
        {f'{LATE}{{source="popular"}}': NEVER, f'{ANSWERS}{{source="popular"}}': EVENLY},
    ),
    ("TidegateBreakerOpens", {f'{OPENED}{{part="store"}}': "0+1x60"}, {f'{OPENED}{{part="store"}}': NEVER}),
    ("TidegateLinesLost", {f'{LINES}{{outcome="failed"}}': EVENLY}, {f'{LINES}{{outcome="written"}}': EVENLY}),
    (
        "TidegateWorkersFail",
        {f'{handler.REFUSED}{{status="500",model_version="1.0"}}': EVENLY},
        {f'{handler.REFUSED}{{status="400",model_version="1.0"}}': EVENLY},
    ),
    ("TidegateRolledBack", {ROLLBACKS: "0+0x39 1+0x20"}, {ROLLBACKS: NEVER}),
]


def test_every_alert_has_a_case_that_fires_it() -> None:
    assert {name for name, _, _ in FIRING} == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize(("name", "bad", "good"), FIRING, ids=lambda value: value if isinstance(value, str) else "")
def test_an_alert_fires_only_on_its_case(name: str, bad: dict, good: dict, tmp_path: Path) -> None:
    def case(series: dict[str, str], firing: bool) -> dict:
        expression = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
        samples = [{"labels": "{}", "value": 1}] if firing else []
        expected = {"eval_time": "45m", "expr": expression, "exp_samples": samples}
        inputs = [{"series": series_name, "values": values} for series_name, values in series.items()]
        return {"interval": "1m", "input_series": inputs, "promql_expr_test": [expected]}

    tests = tmp_path / "tests.yml"
    cases = [case(bad, firing=True), case(good, firing=False)]
    tests.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": cases}), encoding="utf-8")
    promtool("test", "rules", tests)


def test_metrics_and_labels_of_an_expression_are_found() -> None:
    expression = (
        'histogram_quantile(0.9, sum by (le, source) (rate(a_bucket{kind="x(y)"}[$__rate_interval]))) / on (b) up'
    )
    assert promql.metrics(expression) == {"a_bucket", "up"}
    assert promql.labels(expression) == {"a_bucket": {"kind"}}
    assert promql.grouped(expression) == {"source", "b"}
