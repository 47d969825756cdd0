"""What the edge counts, for Prometheus. Names and labels stay; dashboards rest on them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5)


class Metrics:
    """One set per process. Labels come from short lists of ours, never from what a client sends."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.answers = Counter("tidegate_edge_answers", "Answers given", ("rung", "cache", "bucket"), registry=registry)
        self.seconds = Histogram(
            "tidegate_edge_answer_seconds",
            "From the whole request to its answer",
            ("rung",),
            buckets=SECONDS,
            registry=registry,
        )
        self.late = Counter("tidegate_edge_late", "Answers given after their deadline", ("rung",), registry=registry)
        self.refusals = Counter("tidegate_edge_refusals", "Requests refused", ("status",), registry=registry)
        self.upstream = Histogram(
            "tidegate_edge_upstream_seconds",
            "Calls of TorchServe, by how they ended",
            ("kind",),
            buckets=SECONDS,
            registry=registry,
        )
        self.opened = Counter("tidegate_edge_breaker_opened", "Times a breaker opened", ("part",), registry=registry)
        self.served = Counter("tidegate_edge_served_lines", "Lines of the served log", ("outcome",), registry=registry)
        self.consent = Counter(
            "tidegate_edge_consent", "Requests by the word on personalisation", ("word",), registry=registry
        )
        self.shadow = Counter(
            "tidegate_edge_shadow", "Requests also put to a version on trial, unseen", ("outcome",), registry=registry
        )
        self.rollbacks = Counter("tidegate_edge_rollbacks", "Rollbacks since a limit was passed", registry=registry)
        self.errors = Counter("tidegate_edge_errors", "Faults of the edge's own", registry=registry)
