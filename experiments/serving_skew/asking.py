"""Whom a served answer is about, and the digests that its line would state of what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.instants import from_iso
from experiments.serving_skew.sources import Sources
from serving.edge.pseudonym import hidden
from serving.worker import inputs
from serving.worker.person import Person
from serving.worker.request import Request

CONTEXT_GONE = "the request states a context, which was not kept (TIDEGATE_EDGE_KEEP_REQUESTS)"
CONTEXT_MIXED = "the edge told the worker traits and the request's context as one"


@dataclass(frozen=True)
class Asking:
    """Whom an answer is about and when.

    Attributes:
        context: that the request states; None where that is not known, for the reason `unknown`.
    """

    line: Mapping[str, Any]
    secret: bytes
    user: str | None
    repeats: str
    context: Mapping[str, object] | None
    unknown: str

    @property
    def time_us(self) -> int:
        return from_iso(self.line["time"])

    def digests(self, person: Person) -> dict[str, str]:
        """As the line would state them, had the worker read this."""
        request = Request(self.user, [], False, self.line["k"], self.time_us, dict(self.context or {}), None)
        return hidden(self.secret, inputs.of(request, person, "")) or {}

    def as_served(self, group: str, person: Person) -> bool:
        return self.digests(person)[group] == self.line["inputs"].get(group)


def asking_of(line: Mapping[str, Any], repeats: str, sources: Sources) -> Asking:
    assert sources.secret is not None  # or there is nobody to ask about
    stated = sources.stated(line)
    unknown = ""
    if "history" in line["unlogged"]:  # of a store that the edge reads, and the worker cannot
        unknown = CONTEXT_MIXED
    elif stated is None and "context" in line["unlogged"]:
        unknown = CONTEXT_GONE
    context = None if unknown else (stated or {}).get("context") or {}
    return Asking(line, sources.secret, sources.owners.get(line["user"]), repeats, context, unknown)
