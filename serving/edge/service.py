"""All parts of one edge process: built from the settings, started, stopped, and asked whether they are ready."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import suppress
from functools import partial

from prometheus_client import CollectorRegistry

from serving import settings as torchserve_settings
from serving.circuit_breaker import Breaker
from serving.deployment import rollout_stage
from serving.edge import authentication
from serving.edge.authentication import Authenticator, RateLimit
from serving.edge.cache import Cache, MemoryCache, NoCache, RedisCache
from serving.edge.consent import ConsentCheck, NoProfiles, ProfileReader
from serving.edge.fallback import FallbackChain, update_static_list
from serving.edge.metrics import Metrics
from serving.edge.models import ApiError, Readiness
from serving.edge.recommend import RecommendationPipeline
from serving.edge.request_log import LineLog, load_secret
from serving.edge.rollout_trial import ArmSplit, RolloutTrial, RolloutWatch, ShadowRequests
from serving.edge.settings import EdgeSettings, variable
from serving.edge.torchserve_client import NoAnswer, TorchServeClient

log = logging.getLogger(__name__)

STATIC_LIST = "static.json"
FOR_OWNER_ONLY = 0o700
FAIR_SHARE = 0.5  # of an ordinary request's time: a server that takes longer failed, whatever the client's deadline


class EdgeService:
    """The parts of one process. `start` and `stop` belong to one event loop.

    Args:
        settings: as `serving.edge.settings.load` returns them.
        profiles: where consent is read; None: no store.

    Raises:
        KeyFileError, SecretError: the stored keys, or the secret, are invalid.
    """

    def __init__(self, settings: EdgeSettings, profiles: ProfileReader | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics(CollectorRegistry())
        text = settings.keys.get_secret_value()
        fixed_keys = authentication.parse_keys(text, variable("keys")) if text else []
        share = settings.workers  # requests spread over the processes, and so do a key's tokens
        limit = RateLimit(settings.rate_per_second / share, settings.rate_burst / share)
        self.authenticator = Authenticator(settings.keys_path, fixed_keys, limit)
        self.secret = load_secret(settings.user_secret.get_secret_value(), settings.secret_path)
        self.served_log: LineLog | None = None
        self.kept_requests: LineLog | None = None
        self._profiles = profiles or NoProfiles()
        self._tasks: list[asyncio.Task] = []

    async def start(self) -> None:
        settings = self.settings
        self._open_logs()
        self.trial = RolloutTrial(
            self._torchserve("torchserve"),
            self._torchserve("candidate"),
            ArmSplit(settings.experiment, settings.arms),
        )
        server = torchserve_settings.load()
        stage_file = settings.rollout or rollout_stage.stage_path(settings.dataset, server)
        self._watch = RolloutWatch(stage_file, self.trial, self.metrics.rollbacks.inc)
        self._watch.check_stage()  # before the first request
        self.shadow = ShadowRequests(
            self.trial,
            settings.shadow_queue,
            FAIR_SHARE * settings.call_seconds,
            lambda outcome: self.metrics.shadow.labels(outcome).inc(),
        )
        static = update_static_list(
            settings.home / STATIC_LIST, settings.artifact, server.model_store, settings.dataset
        )
        self.pipeline = RecommendationPipeline(
            torchserve=self.trial,
            consent=ConsentCheck(
                self._profiles, self._breaker("store"), settings.store_ms / 1000, settings.personalize_by_default
            ),
            cache=self._cache(),
            fallback=FallbackChain(static),
            secret=self.secret,
            reserve=settings.reserve_ms / 1000,
            cache_seconds=settings.cache_seconds,
            stale_seconds=settings.stale_seconds,
        )
        loops = (self._refresh_popular_list(), self._watch.run(), self.shadow.run())
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
        await self.pipeline.consent.close()
        for line_log in (self.served_log, self.kept_requests):
            if line_log is not None:
                line_log.close()

    def readiness(self) -> Readiness:
        """The state of each part.

        A TorchServe that is down does not make the edge unready: the edge still answers, and says from where. If it
        were unready, a load balancer would take all edges out at once and turn a degradation into an outage.
        """
        pipeline = self.pipeline
        has_keys = self.authenticator.has_keys
        has_popular, has_static = pipeline.fallback.popular is not None, bool(pipeline.fallback.static.items)
        return Readiness(
            status="ready" if has_keys and (has_popular or has_static) else "not ready",
            keys=has_keys,
            torchserve=self.trial.breaker.closed and bool(pipeline.version),
            store=pipeline.consent.breaker.closed,
            popular_list=has_popular,
            static_list=has_static,
            model_version=pipeline.version or None,
        )

    async def _refresh_popular_list(self) -> None:
        """Keep the popular list and the version fresh; while the circuit is open, try TorchServe again."""
        settings, pipeline = self.settings, self.pipeline
        while True:
            try:
                await pipeline.refresh_popular_list(settings.call_seconds)
                self._keep_as_static_list()
            except (NoAnswer, ApiError) as error:
                log.debug("no popular list: %s", error)
            except Exception:  # this task must outlive whatever happens in it: recovery depends on it
                log.exception("no popular list")
            healthy = self.trial.breaker.closed and pipeline.fallback.popular is not None
            await asyncio.sleep(settings.popular_seconds if healthy else settings.breaker_seconds)

    def _keep_as_static_list(self) -> None:
        """Where no artifact can be read, TorchServe's list becomes the static one, for this process and the next."""
        fallback = self.pipeline.fallback
        if fallback.popular is None or fallback.static.items:
            return
        fallback.static = fallback.popular
        try:
            fallback.popular.save(self.settings.home / STATIC_LIST)
        except OSError as error:
            log.error("the static list is not written: %s", error)

    def _open_logs(self) -> None:
        settings = self.settings

        def count(outcome: str, lines: int) -> None:
            self.metrics.served.labels(outcome).inc(lines)

        if settings.served_log:
            self.served_log = LineLog(settings.home / "served", settings.served_queue, count)
        if settings.keep_requests:
            folder = settings.home / "requests"
            self.kept_requests = LineLog(folder, settings.served_queue, count, "requests", FOR_OWNER_ONLY)

    def _torchserve(self, part: str) -> TorchServeClient:
        settings = self.settings
        return TorchServeClient(
            settings.upstream,
            settings.management,
            settings.dataset,
            settings.token_file or torchserve_settings.load().key_file,
            self._breaker(part),
            settings.connections,
            FAIR_SHARE * settings.call_seconds,
            lambda kind, seconds: self.metrics.upstream.labels(kind).observe(seconds),
        )

    def _cache(self) -> Cache:
        settings = self.settings
        if settings.cache == "off":
            return NoCache()
        if settings.cache == "memory":
            return MemoryCache(settings.cache_mb * 1_000_000)
        return RedisCache(settings.cache, self._breaker("cache"), settings.cache_ms / 1000)

    def _breaker(self, part: str) -> Breaker:
        opened = partial(self.metrics.opened.labels(part).inc)
        return Breaker(self.settings.breaker_failures, self.settings.breaker_seconds, opened)
