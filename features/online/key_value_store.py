"""A ProfileStore over anything that holds bytes by key and can compare and swap them.

Merging happens here, once for all engines. A writer reads, joins and swaps; where another writer was faster the
swap refuses, and the loser reads again. A swap that refuses means that some other one succeeded, so somebody always
gets on, and nobody's events are lost.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import NamedTuple, Protocol

from features.online import profile_codec
from features.online.errors import NewerRecord, RecordError, StoreConflict, StoreError
from features.online.item_trends import ItemTrends
from features.online.profile import Profile, join
from features.online.store import Policy, Reading, State

log = logging.getLogger(__name__)

ATTEMPTS = 100  # each lost one means that another writer got on
CHUNK = 500  # users written at once: a loser repeats no more than this


class Swap(NamedTuple):
    """Put `new` in the place of `old`; None stands for nothing being there."""

    key: bytes
    old: bytes | None
    new: bytes | None


class Engine(Protocol):
    """Bytes by key. Every method is one round trip and raises StoreUnavailable where there is no answer in time."""

    place: str  # where it is, without credentials

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        """Which of the swaps found their `old`; each is atomic, and lasting once this returns."""

    def ping(self) -> None: ...

    def close(self) -> None: ...


class RecordStore:
    """See `features.online.store.ProfileStore`.

    Args:
        namespace: the data set's name: stores of several may share one engine.
    """

    def __init__(self, engine: Engine, namespace: str) -> None:
        self.engine = engine
        self._prefix = f"tidegate:{namespace}:".encode()
        self._policy_key, self._time_key, self._trends_key = map(self._key, ("policy", "trends-time", "trends"))

    def configure(self, policy: Policy) -> None:
        stated = json.dumps(asdict(policy)).encode()
        self._replace(self._policy_key, lambda held: stated)

    def policy(self) -> Policy | None:
        (raw,) = self.engine.get([self._policy_key])
        return None if raw is None else self._policy(raw)

    def read(self, user_ids: Sequence[str], as_of_us: Sequence[int]) -> list[Reading]:
        policy, held = self._held(user_ids)
        if not policy.filled:
            raise StoreError(f"{self.engine.place} is still being filled: features.materialize has not come to its end")
        asked = zip(user_ids, held, as_of_us, strict=True)
        return [self._reading(user, raw, moment, policy) for user, raw, moment in asked]

    def upsert(self, changes: Sequence[Profile]) -> None:
        by_user: dict[str, list[Profile]] = {}
        for change in changes:
            by_user.setdefault(change.user_id, []).append(change)
        users = list(by_user)
        refused: list[NewerRecord] = []
        for begin in range(0, len(users), CHUNK):
            refused += self._write({user: by_user[user] for user in users[begin : begin + CHUNK]})
        if refused:
            raise refused[0]

    def erase(self, user_ids: Sequence[str]) -> None:
        for user in user_ids:
            self._replace(self._profile_key(user), lambda held: None)

    def write_trends(self, trends: ItemTrends) -> None:
        raw = trends.to_bytes()
        self._replace(self._trends_key, lambda held: held if _later(held, trends.time_us) else raw)
        # A hint for readers, set after the values: at worst they look again, or look a refresh later.
        stated = str(trends.time_us).encode()
        self._replace(self._time_key, lambda held: held if held and int(held) > trends.time_us else stated)

    def read_trends(self, as_of_us: int, newer_than_us: int | None = None) -> ItemTrends | None:
        stated, raw_policy = self.engine.get([self._time_key, self._policy_key])
        if stated is None or (newer_than_us is not None and int(stated) <= newer_than_us):
            return None
        (raw,) = self.engine.get([self._trends_key])
        policy, trends = self._policy(raw_policy), ItemTrends.from_bytes(raw) if raw else None
        if trends is None or trends.time_us > as_of_us or policy.expired(trends.time_us, as_of_us):
            return None
        return trends

    def health(self) -> dict:
        begun = time.perf_counter()
        self.engine.ping()
        return {"store": self.engine.place, "round_trip_us": round((time.perf_counter() - begun) * 1e6)}

    def close(self) -> None:
        self.engine.close()

    def _key(self, name: str) -> bytes:
        return self._prefix + name.encode()

    def _profile_key(self, user_id: str) -> bytes:
        # JSON text may hold half a surrogate pair, and such a user must not fail the batch.
        return self._key("profile:") + user_id.encode("utf-8", "surrogatepass")

    def _held(self, user_ids: Iterable[str]) -> tuple[Policy, list[bytes | None]]:
        """The policy and the records, in one round trip."""
        raw_policy, *held = self.engine.get([self._policy_key, *map(self._profile_key, user_ids)])
        return self._policy(raw_policy), held

    def _policy(self, raw: bytes | None) -> Policy:
        if raw is None:
            raise StoreError(
                f"{self.engine.place} has no policy for {self._prefix.decode()[:-1]}; run features.materialize"
            )
        try:
            return _as_policy(raw)
        except (ValueError, TypeError) as error:
            raise RecordError(f"the policy in {self.engine.place} cannot be read: {error!r}") from None

    def _reading(self, user_id: str, raw: bytes | None, as_of_us: int, policy: Policy) -> Reading:
        if raw is None:
            return Reading(State.UNKNOWN)
        try:
            profile = profile_codec.decode(raw, user_id)
        except RecordError as error:
            log.error("%s: %s", self.engine.place, error)
            return Reading(State.CORRUPT, detail=str(error))
        if policy.expired(profile.feature_time_us, as_of_us):
            return Reading(State.EXPIRED)
        return Reading(State.FOUND, profile)

    def _write(self, waiting: dict[str, list[Profile]]) -> list[NewerRecord]:
        """Write the changes of a chunk of users; returns what was refused."""
        refused: list[NewerRecord] = []
        for _ in range(ATTEMPTS):
            policy, held = self._held(waiting)
            swaps: dict[str, Swap] = {}
            for (user, changes), raw in zip(waiting.items(), held, strict=True):
                try:
                    merged = profile_codec.encode(self._merged(user, raw, changes, policy.max_events))
                except NewerRecord as error:
                    refused.append(error)
                    continue
                if merged != raw:
                    swaps[user] = Swap(self._profile_key(user), raw, merged)
            done = self.engine.swap(list(swaps.values())) if swaps else []
            waiting = {user: waiting[user] for user, was_done in zip(swaps, done, strict=True) if not was_done}
            if not waiting:
                return refused
        raise StoreConflict(f"{self.engine.place}: {len(waiting)} users changed under {ATTEMPTS} attempts to write")

    def _merged(self, user_id: str, raw: bytes | None, changes: list[Profile], max_events: int) -> Profile:
        merged = Profile(user_id)
        if raw is not None:
            try:
                merged = profile_codec.decode(raw, user_id)
            except NewerRecord:
                raise
            except RecordError as error:
                # The event log, not this store, is the truth: begin anew, say so, and let the profile say so too.
                log.error("%s: %s; it is replaced by what arrives now", self.engine.place, error)
                merged = Profile(user_id, truncated=True)
        for change in changes:
            merged = join(merged, change, max_events)
        return merged

    def _replace(self, key: bytes, new) -> None:
        """Set one key to `new(held)`."""
        for _ in range(ATTEMPTS):
            (held,) = self.engine.get([key])
            wanted = new(held)
            if wanted == held or self.engine.swap([Swap(key, held, wanted)])[0]:
                return
        raise StoreConflict(f"{self.engine.place}: {key!r} changed under {ATTEMPTS} attempts to write")


@lru_cache(8)  # read with every batch, and hardly ever another
def _as_policy(raw: bytes) -> Policy:
    return Policy(**json.loads(raw))


def _later(raw: bytes | None, time_us: int) -> bool:
    try:
        return raw is not None and ItemTrends.from_bytes(raw).time_us > time_us
    except NewerRecord:
        raise
    except RecordError:
        return False
