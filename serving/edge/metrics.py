"""The edge's Prometheus metrics, and the port that serves those of all its processes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5)


class Metrics:
    """The metrics of one process. Labels come from short fixed lists, never from what a client sends."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tidegate_edge_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"tidegate_edge_{name}", text, labels, buckets=SECONDS, registry=registry)

        self.answers = counter("answers", "Answers", "source", "cache", "bucket")
        self.seconds = histogram("answer_seconds", "From the whole request to its answer", "source")
        self.late = counter("late", "Answers after their deadline", "source")
        self.refusals = counter("refusals", "Refused requests", "status")
        self.upstream = histogram("upstream_seconds", "Calls of TorchServe, by how they ended", "kind")
        self.opened = counter("breaker_opened", "Times that a circuit breaker opened", "part")
        self.served = counter("served_lines", "Lines of the served log", "outcome")
        self.consent = counter("consent", "Requests by the user's consent", "consent")
        self.shadow = counter("shadow", "Requests also put to a version on trial, unseen", "outcome")
        self.rollbacks = counter("rollbacks", "Rollbacks because a limit was passed")
        self.errors = counter("errors", "Faults of the edge itself")


def serve_all_processes(host: str, port: int) -> None:
    """Serve the counts of all processes from this one, in a thread. Raises OSError: the port cannot be used."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    start_http_server(port, host, registry)
