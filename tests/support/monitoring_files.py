"""The committed dashboard, alerts and Prometheus settings, and the metrics that they ask for."""

from __future__ import annotations

import json

import yaml

from config.paths import ROOT
from serving.worker import handler

FOLDER = ROOT / "serving" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
SHOWN = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS}
ASKED = {**SHOWN, **{rule["alert"]: [rule["expr"]] for rule in ALERTS}}
EXPRESSIONS = [expression for each in ASKED.values() for expression in each]
WORKERS = {*handler.LABEL, handler.MEMORY}
TORCHSERVES = {  # that tests/serving/test_live_operations.py finds on a real one
    "ts_queue_latency_microseconds",
    "ts_inference_latency_microseconds",
    "ts_inference_requests_total",
    "Requests5XX",
}
