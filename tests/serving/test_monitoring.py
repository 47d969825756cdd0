"""The dashboard and the alerts ask for what is really counted, and can be read."""

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
from prometheus_client import CollectorRegistry, generate_latest

from serving.edge.metrics import Metrics
from serving.edge.settings import EdgeSettings
from serving.settings import ServerSettings
from serving.worker import worker_metrics

OURS = "tidegate_edge_"
PROMETHEUS_OWN = {"up"}


def edge_page() -> str:
    metrics = Metrics(CollectorRegistry())
    return generate_latest(metrics.registry).decode()


@pytest.mark.parametrize("title", ASKED)
def test_every_metric_asked_for_is_counted_by_somebody(title: str) -> None:
    counted = promql.exposed(edge_page()) | WORKERS | TORCHSERVES | PROMETHEUS_OWN
    for expression in ASKED[title]:
        assert promql.metrics(expression)
        assert promql.metrics(expression) <= counted


def test_every_metric_of_the_edge_is_shown() -> None:
    shown = {name for each in SHOWN.values() for expression in each for name in promql.metrics(expression)}
    histograms = {"tidegate_edge_answer_seconds", "tidegate_edge_upstream_seconds"}
    families = {name for name in promql.exposed(edge_page()) if name.endswith("_total")}
    assert families | WORKERS <= shown
    assert all(any(name.startswith(histogram) for name in shown) for histogram in histograms)


def test_every_label_asked_for_exists() -> None:
    metrics = Metrics(CollectorRegistry())
    of_edge = {part._name: set(part._labelnames) for part in vars(metrics).values() if hasattr(part, "_labelnames")}
    of_workers = {
        name: {*worker_metrics.MODEL_LABELS, label}
        for name, label in [*worker_metrics.LABEL.items(), (worker_metrics.MEMORY, "worker")]
    }
    every = set().union(*of_edge.values(), *of_workers.values())
    for expression in EXPRESSIONS:
        for name, labels in promql.labels(expression).items():
            family = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_total")
            known = of_edge.get(family) or of_workers.get(name) or {"job"}
            assert labels <= known, expression
        assert promql.grouped(expression) <= every, expression


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {
        "${datasource}"
    }
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_titles_and_ids_are_given_once() -> None:
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_no_panel_lies_over_another_or_beyond_the_edge() -> None:
    def area(panel: dict) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not area(one) & area(other), (one["title"], other["title"])


def test_the_datasource_is_chosen_by_who_looks() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


def test_the_example_scrapes_both_at_their_usual_ports() -> None:
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
        pytest.skip("promtool is not here (Debian: the package prometheus)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_configuration_and_expressions(tmp_path: Path) -> None:
    recorded = [  # a dashboard's expressions as rules, which is what promtool reads
        {"record": f"shown:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": recorded}]}))
    promtool("check", "config", FOLDER / "prometheus.yml")
    promtool("check", "rules", rules)


EVENLY, NEVER = "0+60x60", "0+0x60"  # one a second for an hour, and none
ANSWERS, LATE = "tidegate_edge_answers_total", "tidegate_edge_late_total"
ROLLBACKS = "tidegate_edge_rollbacks_total"
OPENED, LINES = "tidegate_edge_breaker_opened_total", "tidegate_edge_served_lines_total"
FIRING = [  # the alert, series that are to set it off, series that are not
    ("TidegateEdgeDown", {'up{job="tidegate-edge"}': "0+0x60"}, {'up{job="tidegate-edge"}': "1+0x60"}),
    (
        "TidegateTorchServeDown",
        {'up{job="tidegate-torchserve"}': "0+0x60"},
        {'up{job="tidegate-torchserve"}': "1+0x60"},
    ),
    (
        "TidegateFewPersonalised",
        {f'{ANSWERS}{{rung="static"}}': EVENLY},  # and no series at all of what is missing
        {f'{ANSWERS}{{rung="static"}}': EVENLY, f'{ANSWERS}{{rung="personalised"}}': "0+90x60"},
    ),
    (
        "TidegateAnswersLate",
        {f'{LATE}{{rung="popular"}}': "0+1x60", f'{ANSWERS}{{rung="popular"}}': EVENLY},
        {f'{LATE}{{rung="popular"}}': NEVER, f'{ANSWERS}{{rung="popular"}}': EVENLY},
    ),
    ("TidegateBreakerOpens", {f'{OPENED}{{part="store"}}': "0+1x60"}, {f'{OPENED}{{part="store"}}': NEVER}),
    ("TidegateLinesLost", {f'{LINES}{{outcome="failed"}}': EVENLY}, {f'{LINES}{{outcome="written"}}': EVENLY}),
    (
        "TidegateWorkersFail",
        {f'{worker_metrics.REFUSED}{{status="500",model_version="1.0"}}': EVENLY},
        {f'{worker_metrics.REFUSED}{{status="400",model_version="1.0"}}': EVENLY},
    ),
    ("TidegateRolledBack", {ROLLBACKS: "0+0x39 1+0x20"}, {ROLLBACKS: NEVER}),
]


def test_every_alert_is_set_off_by_something() -> None:
    assert {name for name, _, _ in FIRING} == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize(("name", "bad", "good"), FIRING, ids=lambda value: value if isinstance(value, str) else "")
def test_an_alert_fires_when_it_should_and_only_then(name: str, bad: dict, good: dict, tmp_path: Path) -> None:
    def case(series: dict[str, str], firing: bool) -> dict:
        expression = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
        samples = [{"labels": "{}", "value": 1}] if firing else []
        told = {"eval_time": "45m", "expr": expression, "exp_samples": samples}
        given = [{"series": series_name, "values": values} for series_name, values in series.items()]
        return {"interval": "1m", "input_series": given, "promql_expr_test": [told]}

    tests = tmp_path / "tests.yml"
    cases = [case(bad, firing=True), case(good, firing=False)]
    tests.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": cases}))
    promtool("test", "rules", tests)


def test_the_parts_of_an_expression_are_found() -> None:
    expression = (
        'histogram_quantile(0.9, sum by (le, rung) (rate(a_bucket{kind="x(y)"}[$__rate_interval]))) / on (b) up'
    )
    assert promql.metrics(expression) == {"a_bucket", "up"}
    assert promql.labels(expression) == {"a_bucket": {"kind"}}
    assert promql.grouped(expression) == {"rung", "b"}
