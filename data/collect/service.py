"""All parts of the collector's process: built from the settings, started, stopped and counted."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from data.collect.collector import Collector, Status, Verdict
from data.collect.mapping import load_rules
from data.collect.messages import Reading
from data.collect.open_log import open_log
from data.collect.rejected_store import RejectedStore
from data.collect.request import MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_MESSAGES
from data.collect.settings import CollectSettings
from data.collect.write_keys import WriteKey
from data.columns import DAY
from data.times import now_us
from web.connections import ConnectionLimiter, allow_open_files
from web.keys import Authenticator
from web.rate_limit import RateLimit
from web.uvicorn_options import IDLE_SECONDS

log = logging.getLogger(__name__)

FOR_OWNER_ONLY = 0o700
CLEANING_SECONDS = 3600
COLLECT_AFTER = 50_000  # new objects, between runs of the garbage collector; the default of 700 are a few events
REPLAY_SECONDS = 1.0  # between looks for events to replay
REPLAY_EVENTS = 200  # at once, so that replayed events do not hold up new ones
MB = 1_000_000
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The Prometheus metrics of the process. Labels come from short fixed lists, or are sources of write keys."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.events = Counter("tidegate_collect_events", "Events by verdict", ("source", "verdict"), registry=registry)
        self.rejected = Counter("tidegate_collect_rejected", "Rejected events", ("source", "reason"), registry=registry)
        self.rejected_dropped = Counter(
            "tidegate_collect_rejected_dropped", "Rejected events dropped for want of space", registry=registry
        )
        self.dropped_by_senders = Counter(
            "tidegate_collect_dropped_by_senders",
            "Events that a sender's full queue lost",
            ("source",),
            registry=registry,
        )
        self.refusals = Counter(
            "tidegate_collect_refusals", "Refused requests", ("status", "reason"), registry=registry
        )
        self.closed = Counter(
            "tidegate_collect_connections_closed", "Connections closed to hold a limit", ("reason",), registry=registry
        )
        self.seconds = Histogram(
            "tidegate_collect_seconds", "From the request to its verdicts", buckets=SECONDS, registry=registry
        )
        self.failing = Gauge(
            "tidegate_collect_failing",
            "1 while events cannot be stored",
            registry=registry,
            multiprocess_mode="mostrecent",  # a process that was killed must not leave its last value
        )
        self.is_failing = False

    def record(self, source: str, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Count the verdicts of a request."""
        self.seconds.observe(seconds)
        statuses = [verdict.status for verdict in verdicts]
        for status in set(statuses):
            self.events.labels(source, status).inc(statuses.count(status))
        for verdict in verdicts:
            if verdict.status is Status.REJECTED:
                self.rejected.labels(source, verdict.reason).inc()
        if Status.RETRY in statuses:
            self._set_failing(True)
        elif Status.ACCEPTED in statuses:
            self._set_failing(False)

    def _set_failing(self, is_failing: bool) -> None:
        self.is_failing = is_failing
        self.failing.set(is_failing)


class Limits:
    """What each write key may send per second."""

    def __init__(self, settings: CollectSettings) -> None:
        self._default = settings.events_per_second, settings.bytes_per_second
        self._limits: dict[tuple[float, float], tuple[RateLimit, RateLimit]] = {}

    def take(self, key: WriteKey, events: int, size: int) -> float:
        """0 where the key may send these, else the seconds to wait."""
        rates = key.events_per_second or self._default[0], key.bytes_per_second or self._default[1]
        if rates not in self._limits:  # keys with the same rates share the limiter, not their tokens
            bursts = max(rates[0], MAX_MESSAGES), max(rates[1], MAX_BATCH_BYTES)
            self._limits[rates] = RateLimit(rates[0], bursts[0]), RateLimit(rates[1], bursts[1])
        by_event, by_byte = self._limits[rates]
        return by_event.take(key.id, events) or by_byte.take(key.id, size)


class CollectService:
    """The parts of the process. `start` and `stop` belong to one event loop.

    Raises:
        KeyFileError, MappingError: the write keys or the mapping are invalid.
    """

    def __init__(self, settings: CollectSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.authenticator = Authenticator(settings.write_keys, WriteKey)
        self.limits = Limits(settings)
        self.connections = ConnectionLimiter(
            allow_open_files(settings.max_connections),
            settings.head_seconds,
            settings.body_seconds,
            IDLE_SECONDS,
            MAX_BODY_BYTES,
            lambda reason: self.metrics.closed.labels(reason).inc(),
        )
        self.draining = False
        self._rules = load_rules(settings.mapping)
        self._tasks: list[asyncio.Task] = []

    async def start(self) -> None:
        """Open the log and the store of rejected events. Raises LogError."""
        settings = self.settings
        settings.home.mkdir(mode=FOR_OWNER_ONLY, parents=True, exist_ok=True)
        self.log = await asyncio.to_thread(open_log, settings)
        self.rejected = RejectedStore(settings.home, settings.rejected_mb * MB, self.metrics.rejected_dropped.inc)
        self.collector = Collector(self.log, self.rejected)
        self._tasks = [asyncio.create_task(self.connections.run()), asyncio.create_task(self._clean_up())]
        self._tasks.append(asyncio.create_task(self._replay_rejected()))
        gc.collect()
        gc.freeze()  # what was loaded stays
        gc.set_threshold(COLLECT_AFTER)

    async def stop(self) -> None:
        """Store what waits, and close."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self.log.close)
        self.rejected.close()

    def begin_to_drain(self) -> None:
        self.draining = True

    def reading_for(self, default_purposes: tuple[str, ...]) -> Reading:
        """How the messages of a write key with these purposes are read."""
        return Reading(self._rules, default_purposes, self.settings.unknown == "reject")

    def readiness(self) -> dict[str, Any]:
        """The state of each part."""
        failing = self.metrics.is_failing
        status = "draining" if self.draining else "degraded" if failing else "ready"
        return {
            "status": status,
            "log": not failing,
            "keys": self.authenticator.has_keys,
            "end": " ".join(map(str, self.log.end)),
        }

    async def _clean_up(self) -> None:
        """Delete rejected events that are too old, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.rejected.drop_before, now_us() - self.settings.rejected_days * DAY)
            except sqlite3.Error:
                log.exception("old rejected events could not be deleted")
            await asyncio.sleep(CLEANING_SECONDS)

    async def _replay_rejected(self) -> None:
        """Replay the rejected events that a command requested, until cancelled."""
        while True:
            settled = 0
            try:
                if events := await asyncio.to_thread(self.rejected.waiting, REPLAY_EVENTS):
                    settled = await self.collector.replay(events, self.reading_for, now_us())
            except Exception:  # whatever is wrong with one of them, the collector goes on
                log.exception("rejected events could not be replayed; tried again in %g s", REPLAY_SECONDS)
            if settled < REPLAY_EVENTS:
                await asyncio.sleep(REPLAY_SECONDS)
