"""From a checked request to an answer: consent, experiment arm, cache, TorchServe, fallback.

Each step takes no more than what is left of the deadline.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, NamedTuple

import orjson

from serving.edge.answer import PACKED_FORMAT, Answer, build_answer
from serving.edge.cache import Cache, SharedCalls
from serving.edge.consent import ConsentCheck, ConsentDecision
from serving.edge.fallback import FallbackChain, PopularList
from serving.edge.request_log import FROM_REQUEST, FROM_STORE, NO_HISTORY, WITHHELD, hash_inputs
from serving.edge.rollout_trial import NO_BUCKET, Bucket, RolloutTrial
from serving.edge.torchserve_client import NoAnswer
from serving.worker.request import MAX_K, Request

HIT, MISS, SHARED, NONE = "hit", "miss", "shared", "none"
IMPERSONAL_FIELDS = ("exclude", "filters", "k", "time")  # these say nothing of the user
UNLOGGED_FIELDS = ("context", "exclude", "filters", "history")  # may say much of a user: never in the served log
POPULAR_REQUEST = orjson.dumps({"history": [], "k": MAX_K})
SEAL_BYTES = 16  # before each cached answer
MAX_RESERVE_SHARE = 1 / 4  # of a short deadline; or nothing would be left to call TorchServe


@dataclass(frozen=True)
class Call:
    """A checked request, and how it came."""

    request: Request
    body: dict[str, Any]  # its JSON, with the user that the API key is for
    client_consent: bool | None  # the user's consent according to the client, if known
    deadline_ms: int  # from the whole request to its answer
    deadline: float  # when that is over, on the event loop's clock, in seconds
    key_user: str | None  # the one user that the API key is for; None: any

    def seconds_left(self) -> float:
        return self.deadline - asyncio.get_running_loop().time()


class WorkerRequest(NamedTuple):
    """A request to TorchServe."""

    body: bytes  # JSON without the request's id, so that equal requests have equal bodies
    history_source: str  # where the history of the answer comes from, as the served log names it
    unlogged: tuple[str, ...]  # the fields that the served log does not hold, and that a replay needs


NO_WORKER_REQUEST = WorkerRequest(b"{}", WITHHELD, ())


class Recommendation(NamedTuple):
    """An answer and how it came about; `cache` is hit, miss, shared or none."""

    answer: Answer
    bucket: Bucket
    cache: str
    consent: str
    worker_request: WorkerRequest


@dataclass
class RecommendationPipeline:
    """Answers requests."""

    torchserve: RolloutTrial
    consent: ConsentCheck
    cache: Cache
    fallback: FallbackChain
    secret: bytes  # keys the hashes under which answers are cached, so that a shared cache names no user
    dataset: str  # part of these keys, as is the format of what is cached
    reserve: float  # seconds of each deadline that are kept for a fallback
    cache_seconds: float  # how long an answer is given again
    stale_seconds: float  # how long a user's last answer may serve as a fallback
    version: str = ""  # with which TorchServe answers by default, as last seen
    calls: SharedCalls[Answer] = field(default_factory=SharedCalls)

    async def recommend(self, call: Call) -> Recommendation:
        """Always an answer. Raises ApiError: the worker refuses the request."""
        user_id = call.request.user_id
        decision = await self.consent.decide(user_id, call.client_consent, self._seconds_to_spend(call))
        bucket = self.torchserve.bucket(user_id) if user_id is not None and decision.is_personal else NO_BUCKET
        worker_request = build_worker_request(call, decision)
        version = self.torchserve.loaded_version(bucket.version)
        # The refusal is part of the key: users without personal answers share one, but each gets their own reason.
        key = self._hash(f"{decision.version}\n{decision.refusal}".encode(), worker_request.body)
        cached = await self._cached(key + (version or self.version).encode(), call)
        if cached is not None:
            return Recommendation(cached, bucket, HIT, decision.consent, worker_request)
        try:
            answer, shared = await self.calls.call(
                # The deadline is part of the key: a patient request must not share an impatient one's failure.
                key + f"{version} {call.deadline_ms}".encode(),
                lambda: self._ask_torchserve(call, decision, worker_request.body, version, key),
                max(0.0, self._seconds_to_spend(call)),
            )
            return Recommendation(answer, bucket, SHARED if shared else MISS, decision.consent, worker_request)
        except NoAnswer as error:
            failure = str(error)
        except TimeoutError:
            failure = "TorchServe did not answer in time"
        last_answer = await self._cached(self._last_answer_key(call), call) if decision.is_personal else None
        answer = self.fallback.answer(call.request, failure, decision.refusal, last_answer)
        return Recommendation(answer, bucket, NONE, decision.consent, worker_request)

    async def refresh_popular_list(self, seconds: float) -> None:
        """Ask TorchServe for its popular list and its version. Raises NoAnswer, ApiError."""
        fields = await self.torchserve.recommend(POPULAR_REQUEST, None, seconds, counted=False)
        self.fallback.popular = PopularList.from_answer(fields)
        self.version = fields["model_version"]

    async def _ask_torchserve(
        self, call: Call, decision: ConsentDecision, body: bytes, version: str | None, key: bytes
    ) -> Answer:
        counted = self.torchserve.is_evidence("answer", call.key_user)
        fields = await self.torchserve.recommend(body, version, self._seconds_to_spend(call), counted)
        if decision.refusal is not None:
            fields["reason"] = decision.refusal
        fields["inputs"] = hash_inputs(self.secret, fields.get("inputs"))
        answer = build_answer(fields)
        if version is None:
            self.version = answer.version
        packed = answer.pack()
        # Without a personal answer for a profile, the worker may have failed to read it: that must not be repeated.
        if answer.source == "personalized" or not (decision.is_personal and decision.version):
            self._store(key + answer.version.encode(), packed, self.cache_seconds)
        if decision.is_personal and answer.source != "popular":  # everybody's list is not this user's last answer
            self._store(self._last_answer_key(call), packed, self.stale_seconds)
        return answer

    async def _cached(self, key: bytes, call: Call) -> Answer | None:
        entry = await self.cache.get(key, max(0.0, call.seconds_left()))
        if entry is None:
            return None
        seal, packed = entry[:SEAL_BYTES], entry[SEAL_BYTES:]
        if not compare_digest(seal, self._seal(key, packed)):  # damaged, or not ours
            return None
        answer = Answer.unpack(packed)
        return answer if self.torchserve.may_answer(answer.version) else None

    def _store(self, key: bytes, packed: bytes, seconds: float) -> None:
        self.cache.put(key, self._seal(key, packed) + packed, seconds)

    def _seal(self, key: bytes, packed: bytes) -> bytes:
        """A hash that only the holder of the secret can make: a cache may be shared with other programs."""
        return blake2b(key + packed, key=self.secret, digest_size=SEAL_BYTES).digest()

    def _seconds_to_spend(self, call: Call) -> float:
        """Seconds until the reserve for a fallback begins."""
        return call.seconds_left() - min(self.reserve, call.deadline_ms / 1000 * MAX_RESERVE_SHARE)

    def _last_answer_key(self, call: Call) -> bytes:
        """The cache key of the same user's last answer; without a user, of the same history and context."""
        user_id, get = call.request.user_id, call.body.get
        who = [get("history"), get("context")] if user_id is None else user_id
        return self._hash(b"last", orjson.dumps([who, get("filters")], option=orjson.OPT_SORT_KEYS))

    def _hash(self, kind: bytes, content: bytes) -> bytes:
        hasher = blake2b(key=self.secret, digest_size=16)
        hasher.update(len(kind).to_bytes(4, "big") + kind + content)
        return f"{PACKED_FORMAT}:{self.dataset}:{hasher.hexdigest()}".encode()


def build_worker_request(call: Call, decision: ConsentDecision) -> WorkerRequest:
    """The request to TorchServe; without consent it holds nothing of the user."""
    request, features = call.request, decision.features
    if decision.is_personal:
        fields = {name: value for name, value in call.body.items() if name != "request_id"}
        if features is not None and not request.has_history:
            fields |= features | {"context": features["context"] | request.context}
        source = FROM_REQUEST if request.has_history else NO_HISTORY if request.user_id is None else FROM_STORE
    else:
        fields = {name: call.body[name] for name in IMPERSONAL_FIELDS if name in call.body} | {"history": []}
        source = WITHHELD
    unlogged = tuple(name for name in UNLOGGED_FIELDS if fields.get(name))
    return WorkerRequest(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS), source, unlogged)
