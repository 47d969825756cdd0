"""All parts of one edge process, put together from the settings, started and stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import suppress
from functools import partial

from prometheus_client import CollectorRegistry

from serving import settings as torchserve
from serving.circuit_breaker import Breaker
from serving.deployment import rollout_stage
from serving.edge import keyring, static
from serving.edge.cache import Cache, MemoryCache, NoCache
from serving.edge.consent import Guarded, NoStore, Users
from serving.edge.doorkeeper import Doorkeeper
from serving.edge.errors import NoAnswer, Refusal
from serving.edge.experiment import Experiment
from serving.edge.ladder import Ladder
from serving.edge.limit import Limit
from serving.edge.metrics import Metrics
from serving.edge.pseudonym import load_secret
from serving.edge.served import ServedLog
from serving.edge.settings import EdgeSettings, variable
from serving.edge.shadow import Shadow
from serving.edge.trial import Trial
from serving.edge.upstream import Upstream
from serving.edge.watch import Watch

log = logging.getLogger(__name__)


STATIC = "static.json"
OWNER_ALONE = 0o700
FAIR = 0.5  # of the time that a usual request has for TorchServe


class Service:
    """The parts. `start` and `stop` belong to one event loop.

    Args:
        settings: as `serving.edge.settings.load` fills them.
        users: where consent is read; None: no store.

    Raises:
        KeyringError, SecretError: the stored keys, or the secret, are none.
    """

    def __init__(self, settings: EdgeSettings, users: Users | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics(CollectorRegistry())
        stated = settings.keys.get_secret_value()
        keys = keyring.parse(stated, variable("keys")) if stated else []
        share = settings.workers  # requests spread over the processes, and so do a key's tokens
        limit = Limit(settings.rate_per_second / share, settings.rate_burst / share)
        self.doorkeeper = Doorkeeper(settings.keys_path, keys, limit)
        self.secret = load_secret(settings.user_secret.get_secret_value(), settings.home / "user.key")
        self.served: ServedLog | None = None
        self.kept: ServedLog | None = None
        self._users = users or NoStore()
        self._tasks: list[asyncio.Task] = []

    async def start(self) -> None:
        settings, server = self.settings, torchserve.load()
        count = lambda outcome, lines: self.metrics.served.labels(outcome).inc(lines)  # noqa: E731
        if settings.served_log:
            self.served = ServedLog(settings.home / "served", settings.served_queue, count)
        if settings.keep_requests:
            self.kept = ServedLog(settings.home / "requests", settings.served_queue, count, "requests", OWNER_ALONE)
        fair = FAIR * (settings.deadline_ms - settings.reserve_ms) / 1000
        experiment = Experiment(settings.experiment, settings.arms)
        trial = Trial(self._upstream("torchserve", server, fair), self._upstream("candidate", server, fair), experiment)
        self._watch = Watch(
            settings.rollout or rollout_stage.place(settings.dataset, server), trial, self.metrics.rollbacks.inc
        )
        self._watch.look()  # before the first request
        shadowed = lambda outcome: self.metrics.shadow.labels(outcome).inc()  # noqa: E731
        self.shadow = Shadow(trial, settings.shadow_queue, fair, shadowed)
        self.ladder = Ladder(
            upstream=trial,
            users=Guarded(self._users, self._breaker("store"), settings.store_ms / 1000),
            cache=self._cache(),
            secret=self.secret,
            static=static.write(settings.home / STATIC, settings.artifact, server.model_store, settings.dataset),
            reserve=settings.reserve_ms / 1000,
            cache_seconds=settings.cache_seconds,
            stale_seconds=settings.stale_seconds,
            unasked=settings.consent_unasked,
        )
        work = (self._keep_asking(), self._watch.run(), self.shadow.run())
        self._tasks = [asyncio.create_task(one) for one in work]
        gc.collect()
        gc.freeze()  # what was imported stays: no collection looks through it while somebody waits

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.ladder.upstream.close()
        self._watch.close()
        await self.ladder.cache.close()
        await self.ladder.users.close()
        for written in (self.served, self.kept):
            if written is not None:
                written.close()

    def ready(self) -> tuple[bool, dict]:
        """Whether every request with a valid key can be answered, and how its parts are.

        A TorchServe that is down does not make the edge unready: it still answers, and says from where. Were it
        unready, a balancer would take all edges away at once and make an outage of a degradation.
        """
        ladder = self.ladder
        parts = {
            "keys": not self.doorkeeper.knows_nobody,
            "torchserve": ladder.upstream.breaker.closed and bool(ladder.version),
            "store": ladder.users.breaker.closed,
            "popular_list": ladder.popular is not None,
            "static_list": bool(ladder.static.items),
        }
        able = parts["keys"] and (parts["popular_list"] or parts["static_list"])
        return able, {**parts, "model_version": ladder.version or None}

    async def _keep_asking(self) -> None:
        """Keep the popular list and the version fresh; while TorchServe rests, see to it that it is tried again."""
        settings = self.settings
        within = (settings.deadline_ms - settings.reserve_ms) / 1000  # what is too slow for clients is too slow here
        while True:
            try:
                await self.ladder.refresh(within)
                self._keep_if_nothing_else()
            except (NoAnswer, Refusal) as error:
                log.debug("no popular list: %s", error)
            except Exception:  # this task must outlive whatever happens in it: recovery rests on it
                log.exception("no popular list")
            fine = self.ladder.upstream.breaker.closed and self.ladder.popular is not None
            await asyncio.sleep(settings.popular_seconds if fine else settings.breaker_seconds)

    def _keep_if_nothing_else(self) -> None:
        """Where no artifact can be read, TorchServe's list becomes the static one, for this process and the next."""
        ladder = self.ladder
        if ladder.popular is None or ladder.static.items:
            return
        ladder.static = ladder.popular
        try:
            ladder.popular.save(self.settings.home / STATIC)
        except OSError as error:
            log.error("the static list is not kept: %s", error)

    def _upstream(self, part: str, server: torchserve.ServerSettings, fair: float) -> Upstream:
        settings = self.settings
        return Upstream(
            settings.upstream,
            settings.management,
            settings.dataset,
            settings.token_file or server.key_file,
            self._breaker(part),
            settings.connections,
            fair,
            lambda kind, seconds: self.metrics.upstream.labels(kind).observe(seconds),
        )

    def _cache(self) -> Cache:
        settings = self.settings
        if settings.cache == "off":
            return NoCache()
        if settings.cache == "memory":
            return MemoryCache(settings.cache_mb * 1_000_000)
        from serving.edge.redis_cache import RedisCache

        return RedisCache(settings.cache, self._breaker("cache"), settings.cache_ms / 1000)

    def _breaker(self, part: str) -> Breaker:
        opened = partial(self.metrics.opened.labels(part).inc)
        return Breaker(self.settings.breaker_failures, self.settings.breaker_seconds, opened)
