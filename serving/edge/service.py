"""All parts of one edge process: built from the settings, started, stopped, counted, and checked for readiness."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving import settings as torchserve_settings
from serving.circuit_breaker import Breaker
from serving.edge import user_keys
from serving.edge.cache import Cache, MemoryCache, RedisCache
from serving.edge.consent import ConsentCheck, ProfileReader
from serving.edge.fallback import FallbackChain, update_static_list
from serving.edge.keys import ApiKey
from serving.edge.limits import Limits
from serving.edge.models import Readiness
from serving.edge.recommend import RecommendationPipeline
from serving.edge.request_log import LineLog
from serving.edge.request_parsing import HeavyBodies
from serving.edge.rollout_trial import ArmSplit, RolloutTrial, RolloutWatch, ShadowRequests
from serving.edge.settings import EdgeSettings
from serving.edge.torchserve_client import NoAnswer, TorchServeClient
from web.connections import ConnectionLimiter, allow_open_files
from web.errors import ApiError
from web.keys import Authenticator
from web.uvicorn_options import IDLE_SECONDS

log = logging.getLogger(__name__)

STATIC_LIST = "static.json"
FOR_OWNER_ONLY = 0o700
FAIR_SHARE = 0.5  # of an ordinary request's time: a server that takes longer failed, whatever the client's deadline
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5)


class Metrics:
    """The Prometheus metrics of one process. Labels come from short fixed lists, never from what a client sends."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tidegate_edge_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"tidegate_edge_{name}", text, labels, buckets=SECONDS, registry=registry)

        self.answers = counter("answers", "Answers", "source", "cache", "bucket")
        self.seconds = histogram("answer_seconds", "From the whole request to its answer", "source")
        self.late = counter("late", "Answers after their deadline", "source")
        self.refusals = counter("refusals", "Refused requests", "status", "reason")
        self.upstream = histogram("upstream_seconds", "Calls of TorchServe, by how they ended", "kind")
        self.closed = counter("connections_closed", "Connections closed to hold a limit", "reason")
        self.opened = counter("breaker_opened", "Times that a circuit breaker opened", "part")
        self.served = counter("served_lines", "Lines of the served log", "outcome")
        self.consent = counter("consent", "Requests by the user's consent", "consent")
        self.shadow = counter("shadow", "Requests also sent to a version on trial, unseen", "outcome")
        self.rollbacks = counter("rollbacks", "Rollbacks because a limit was passed")
        self.errors = counter("errors", "Faults of the edge itself")
        self.degraded = Gauge(
            "tidegate_edge_degraded",
            "1 while the model does not answer",
            registry=registry,
            multiprocess_mode="mostrecent",  # a process that was killed must not leave its last value
        )


class EdgeService:
    """The parts of one process. `start` and `stop` belong to one event loop.

    Raises:
        KeyFileError, SecretError: the stored keys, or the secret, are invalid.
    """

    def __init__(self, settings: EdgeSettings, profiles: ProfileReader) -> None:
        self.settings, self._profiles = settings, profiles
        self.metrics = Metrics()
        self.authenticator = Authenticator(settings.keys_path, ApiKey)
        self.limits = Limits(settings)
        self.heavy_bodies = HeavyBodies()
        self.connections = ConnectionLimiter(
            allow_open_files(settings.max_connections),
            settings.head_seconds,
            settings.body_seconds,
            IDLE_SECONDS,
            settings.max_body_bytes,
            lambda reason: self.metrics.closed.labels(reason).inc(),
        )
        self.user_key = user_keys.load_keys(settings)[0]
        self.kept_requests: LineLog | None = None
        self.draining = False
        self._model_answered = False  # when it was last asked for the popular list
        self._tasks: list[asyncio.Task] = []

    async def start(self) -> None:
        settings = self.settings
        self._open_logs()
        experiment = ArmSplit(settings.experiment, settings.arms)
        self.trial = RolloutTrial(self._torchserve("torchserve"), self._torchserve("candidate"), experiment)
        self._watch = RolloutWatch(settings.stage_path, self.trial, self.metrics.rollbacks.inc)
        self._watch.check_stage()  # before the first request
        self.shadow = ShadowRequests(
            self.trial,
            settings.shadow_queue,
            FAIR_SHARE * settings.call_seconds,
            lambda outcome: self.metrics.shadow.labels(outcome).inc(),
        )
        store = torchserve_settings.load().model_store
        static = update_static_list(
            settings.home / STATIC_LIST, settings.artifact, store, settings.dataset, self.trial.stage
        )
        self.pipeline = RecommendationPipeline(
            torchserve=self.trial,
            consent=ConsentCheck(
                self._profiles, self._breaker("store"), settings.store_ms / 1000, settings.personalize_by_default
            ),
            cache=self._cache(),
            fallback=FallbackChain(static, may_answer=self.trial.may_answer),
            secret=self.user_key.secret,
            dataset=settings.dataset,
            reserve=settings.reserve_ms / 1000,
            cache_seconds=settings.cache_seconds,
            stale_seconds=settings.stale_seconds,
        )
        loops = (self._refresh_popular_list(), self._watch.run(), self.shadow.run(), self.connections.run())
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        gc.collect()
        gc.freeze()  # what was imported stays: no collection looks through it while a request waits

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.trial.close()
        self._watch.close()
        await self.pipeline.cache.close()
        self._profiles.close()
        self.served_log.close()
        if self.kept_requests is not None:
            self.kept_requests.close()

    def begin_to_drain(self) -> None:
        """Report from now on that no more requests should come; those that do are answered."""
        log.info("draining for %g s", self.settings.drain_seconds)
        self.draining = True

    def readiness(self) -> Readiness:
        """The state of each part, and what answers.

        Without the model the edge is degraded, not unready: it still answers, and names the source. If it were
        unready, a load balancer would take all edges out at once and turn a degradation into an outage.
        """
        pipeline, cache = self.pipeline, self.pipeline.cache
        has_keys = self.authenticator.has_keys
        has_popular, has_static = pipeline.fallback.popular is not None, bool(pipeline.fallback.static.items)
        sources = {
            "model": self._model_answers,
            "cache": self.settings.cache != "off" and (not isinstance(cache, RedisCache) or cache.breaker.closed),
            "popular": has_popular,
            "static": has_static,
        }
        status = "ready" if self._model_answers else "degraded"
        return Readiness(
            status="draining" if self.draining else status if has_keys and (has_popular or has_static) else "not ready",
            sources=[source for source, answers in sources.items() if answers],
            keys=has_keys,
            torchserve=self._model_answers,
            store=pipeline.consent.breaker.closed,
            popular_list=has_popular,
            static_list=has_static,
            model_version=pipeline.version or None,
        )

    @property
    def _model_answers(self) -> bool:
        return self._model_answered and self.trial.champion.breaker.closed

    async def _refresh_popular_list(self) -> None:
        """Keep the popular list and the version fresh; while TorchServe does not answer, try again soon."""
        settings, fallback = self.settings, self.pipeline.fallback
        while True:
            answered = False
            try:
                await self.pipeline.refresh_popular_list(settings.call_seconds)
                self._model_answered = answered = True
                if fallback.popular is not None and not fallback.static.items:
                    # No artifact can be read: TorchServe's list is the static one, for the next process too.
                    fallback.static = fallback.popular
                    fallback.static.save(settings.home / STATIC_LIST)
            except (NoAnswer, ApiError) as error:
                log.debug("no popular list: %s", error)
            except Exception:  # this task must outlive whatever happens in it: recovery depends on it
                log.exception("the popular list is not refreshed or saved")
            self._model_answered = answered
            self.metrics.degraded.set(not self._model_answers)
            await asyncio.sleep(settings.popular_seconds if self._model_answers else settings.breaker_seconds)

    def _open_logs(self) -> None:
        settings = self.settings

        def count(outcome: str, lines: int) -> None:
            self.metrics.served.labels(outcome).inc(lines)

        size = user_keys.retention(settings).file_bytes
        served, requests = settings.home / "served", settings.home / "requests"

        def clean() -> None:
            user_keys.mark_used(settings, self.user_key)
            user_keys.expire(settings, time.time())

        self.served_log = LineLog(served, settings.served_queue, count, file_bytes=size, housekeeping=clean)
        if settings.keep_requests:
            self.kept_requests = LineLog(
                requests, settings.served_queue, count, "requests", FOR_OWNER_ONLY, size, clean
            )

    def _torchserve(self, part: str) -> TorchServeClient:
        settings = self.settings
        return TorchServeClient(
            settings.upstream,
            settings.management,
            settings.dataset,
            settings.token_file,
            self._breaker(part),
            settings.connections,
            FAIR_SHARE * settings.call_seconds,
            lambda kind, seconds: self.metrics.upstream.labels(kind).observe(seconds),
        )

    def _cache(self) -> Cache:
        settings = self.settings
        if "://" in settings.cache:
            return RedisCache(settings.cache, self._breaker("cache"), settings.cache_ms / 1000)
        return MemoryCache(settings.cache_mb * 1_000_000 if settings.cache == "memory" else 0)

    def _breaker(self, part: str) -> Breaker:
        settings = self.settings
        return Breaker(settings.breaker_failures, settings.breaker_seconds, self.metrics.opened.labels(part).inc)
