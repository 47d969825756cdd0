"""The online store: what serving reads and writers update, over any engine that can compare and swap bytes by key.

Profiles are merged here, once for all engines. A writer reads, joins and swaps. If another writer was faster, the swap
fails and the writer reads again. A failed swap means that another one succeeded, so there is always progress, and no
event is lost.

Consent lies apart from the profile, under keys of its own, without time-to-live. Everybody with a profile has a consent
record, if only one that says that they were never asked. So a profile without one shows that it was lost.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Protocol

from data.columns import DAY
from data.consent import CLOCK_TOLERANCE_US, NEVER_ASKED, ConsentRecord, merge, outrank_future
from data.times import now_us
from features.online.errors import NewerRecord, RecordError, StoreConflict, StoreError
from features.online.profile import Profile, join_profiles
from features.online.records import ItemTrends, decode_consent, decode_profile, encode_consent, encode_profile

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 100  # each failed one means that another writer succeeded
USERS_PER_WRITE = 500  # a writer that loses repeats at most so many
CONSENT_PREFIX = b"tidegate-consent:"  # of the keys of consent records; all other keys begin with "tidegate:"


class Swap(NamedTuple):
    """Replace `old` by `new` under a key. None means no value."""

    key: bytes
    old: bytes | None
    new: bytes | None


class Engine(Protocol):
    """Bytes by key. Every method is one round trip, and raises StoreUnavailable if there is no answer in time."""

    location: str  # the URL without credentials

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        """Which of the swaps found their `old`. Each is atomic, and durable once this returns."""

    def close(self) -> None: ...


class ReadingState(StrEnum):
    """Whether a profile was read, and if not, why."""

    FOUND = "found"
    UNKNOWN = "unknown"  # the store holds nothing of the user
    EXPIRED = "expired"  # nothing was learned of the user within the time-to-live
    CORRUPT = "corrupt"  # the record cannot be read


@dataclass(frozen=True)
class Reading:
    """One user's profile, or why there is none; and their consent, for `data.consent.decide`.

    Attributes:
        consent: None if it is lost or cannot be read, which counts as a no.
    """

    state: ReadingState
    profile: Profile | None = None
    consent: ConsentRecord | None = None


@dataclass(frozen=True)
class Policy:
    """Settings of a store. They are kept in the store itself, so that all readers and writers obey them.

    Attributes:
        max_events: the newest events that a profile keeps.
        ttl_us: time-to-live in microseconds: a profile that learned nothing for longer is not served; None: forever.
        complete: whether all users of the dataset are in the store. Until then nobody is read: a user whose refusal of
            consent is not stored yet would count as one who was never asked.
        lost_consent: whether the store lost answers to consent: then nobody without a record counts as never asked.
        numeric_ids: those of user_id and item_id that are numbers in the dataset; see `data.ids`.
    """

    max_events: int
    ttl_us: int | None
    complete: bool = True
    lost_consent: bool = False
    numeric_ids: tuple[str, ...] = ()

    @classmethod
    def from_days(cls, max_events: int, ttl_days: float | None) -> Policy:
        """The policy of the section `online` of params.yaml."""
        return cls(max_events, None if ttl_days is None else round(ttl_days * DAY))

    def expired(self, learned_us: int, as_of_us: int) -> bool:
        return self.ttl_us is not None and as_of_us - learned_us > self.ttl_us

    def state(self, profile: Profile | None, as_of_us: int) -> ReadingState:
        """Whether a profile that can be read is served."""
        if profile is None or not profile.feature_time_us:  # only consent is known of the user
            return ReadingState.UNKNOWN
        return ReadingState.EXPIRED if self.expired(profile.feature_time_us, as_of_us) else ReadingState.FOUND

    def reading(self, profile: Profile | None, consent: ConsentRecord | None, as_of_us: int) -> Reading:
        """What a store with this policy returns of a user, from a profile with all events."""
        state = self.state(profile, as_of_us)
        if profile is None or state is not ReadingState.FOUND:
            return Reading(state, None, consent)
        return Reading(state, join_profiles(Profile(profile.user_id), profile, self.max_events), consent)


class _Stored(NamedTuple):
    """What the store holds of one user."""

    profile: bytes | None
    consent: bytes | None


class ProfileStore:
    """Profiles and consent by user, and the trends of all items.

    Every method raises StoreUnavailable if the store does not answer in time. Concurrent writers never lose each
    other's data, and what `upsert` has stored when it returns survives a kill of the writer.

    Args:
        namespace: the dataset's name; stores of several datasets may share one engine.
    """

    def __init__(self, engine: Engine, namespace: str) -> None:
        self.engine = engine
        self._prefix = f"tidegate:{namespace}:".encode()
        self._consent_prefix = CONSENT_PREFIX + f"{namespace}:".encode()
        self._policy_key, self._time_key, self._trends_key = map(self._key, ("policy", "trends-time", "trends"))

    def configure(self, policy: Policy) -> None:
        """Set the policy. Readers and writers obey it from their next call on. Required once, before any write."""
        encoded = json.dumps(asdict(policy)).encode()
        self._replace(self._policy_key, lambda current: encoded)

    def policy(self) -> Policy | None:
        """The configured policy, or None."""
        (raw,) = self.engine.get([self._policy_key])
        return None if raw is None else self._decode_policy(raw)

    def read(self, user_ids: Sequence[str], as_of_us: Sequence[int]) -> list[Reading]:
        """One Reading per user, in order, in one round trip. A bad record does not affect the others.

        The times of the requests, `as_of_us`, are for the time-to-live. Profiles may hold later events, among which
        `features.online.profile` selects. Raises StoreError if the store is not configured or not complete.
        """
        policy, found = self._policy_and_users(user_ids)
        if not policy.complete:
            raise StoreError(f"{self.engine.location} is incomplete: features.materialize has not finished")
        requests = zip(user_ids, found, as_of_us, strict=True)
        return [self._reading(user, stored, moment, policy) for user, stored, moment in requests]

    def upsert(self, changes: Sequence[Profile]) -> None:
        """Join each change with the stored profile and consent of its user. Order and repetition do not matter.

        A user who is new to the store gets a consent record too, without answers if the change has none.

        Raises:
            StoreConflict: other writers won at every attempt. Some changes may be stored; repeat all.
            NewerRecord: newer code wrote a user's record. It stays; the other users' changes are stored.
        """
        by_user: dict[str, list[Profile]] = {}
        for change in changes:
            by_user.setdefault(change.user_id, []).append(change)
        users = list(by_user)
        refused: list[NewerRecord] = []
        for begin in range(0, len(users), USERS_PER_WRITE):
            refused += self._write({user: by_user[user] for user in users[begin : begin + USERS_PER_WRITE]})
        if refused:
            raise refused[0]

    def erase(self, user_ids: Sequence[str]) -> None:
        """Delete profiles. A later change starts a new one. Consent stays: a no still holds if the user comes back."""
        for user in user_ids:
            self._replace(self._profile_key(user), lambda current: None)

    def write_trends(self, trends: ItemTrends) -> None:
        """Replace the trends, unless the stored ones are of a later time."""
        raw = trends.to_bytes()
        self._replace(self._trends_key, lambda current: current if _is_later(current, trends.time_us) else raw)
        # A hint for readers, written after the values: at worst they read again, or one refresh late.
        moment = str(trends.time_us).encode()
        self._replace(self._time_key, lambda current: current if current and int(current) > trends.time_us else moment)

    def read_trends(self, as_of_us: int, newer_than_us: int | None = None) -> ItemTrends | None:
        """The trends; None if there are none, or they are of a later time, expired, or not newer than the caller's.

        While the caller's are current the call is cheap. Raises RecordError if the stored trends cannot be read.
        """
        moment, raw_policy = self.engine.get([self._time_key, self._policy_key])
        if moment is None or (newer_than_us is not None and int(moment) <= newer_than_us):
            return None
        (raw,) = self.engine.get([self._trends_key])
        policy, trends = self._decode_policy(raw_policy), ItemTrends.from_bytes(raw) if raw else None
        if trends is None or trends.time_us > as_of_us or policy.expired(trends.time_us, as_of_us):
            return None
        return trends

    def close(self) -> None:
        """Close connections. Safe to call twice."""
        self.engine.close()

    def _key(self, name: str) -> bytes:
        return self._prefix + name.encode()

    def _profile_key(self, user_id: str) -> bytes:
        # JSON text may hold half of a surrogate pair; such a user id must not fail the batch.
        return self._key("profile:") + user_id.encode("utf-8", "surrogatepass")

    def _consent_key(self, user_id: str) -> bytes:
        return self._consent_prefix + user_id.encode("utf-8", "surrogatepass")

    def _policy_and_users(self, user_ids: Collection[str]) -> tuple[Policy, list[_Stored]]:
        """In one round trip."""
        keys = [self._policy_key, *map(self._profile_key, user_ids), *map(self._consent_key, user_ids)]
        raw_policy, *records = self.engine.get(keys)
        count = len(user_ids)
        return self._decode_policy(raw_policy), list(map(_Stored, records[:count], records[count:]))

    def _decode_policy(self, raw: bytes | None) -> Policy:
        if raw is None:
            name = self._prefix.decode()[:-1]
            raise StoreError(f"{self.engine.location} has no policy for {name}; run features.materialize")
        try:
            return _parse_policy(raw)
        except (ValueError, TypeError) as error:
            raise RecordError(f"the policy in {self.engine.location} cannot be read: {error!r}") from None

    def _reading(self, user_id: str, stored: _Stored, as_of_us: int, policy: Policy) -> Reading:
        profile = corrupt = None
        if stored.profile is not None:
            try:
                profile = decode_profile(stored.profile, user_id)
            except RecordError as error:
                log.error("%s: %s", self.engine.location, error)
                corrupt = ReadingState.CORRUPT
        try:
            consent = self._consent(user_id, stored, profile, policy)
        except RecordError as error:
            log.error("%s: %s; it counts as a no", self.engine.location, error)
            consent = None
        state = corrupt or policy.state(profile, as_of_us)
        return Reading(state, profile if state is ReadingState.FOUND else None, consent)

    def _consent(self, user_id: str, stored: _Stored, profile: Profile | None, policy: Policy) -> ConsentRecord | None:
        """The consent of a user with this decoded profile; None if it was lost. Raises RecordError."""
        if stored.consent is not None:
            return decode_consent(stored.consent, user_id)
        if stored.profile is not None:
            return profile.consent if profile is not None else None
        return None if policy.lost_consent else NEVER_ASKED

    def _write(self, waiting: dict[str, list[Profile]]) -> list[NewerRecord]:
        """Write the changes of some users. Returns the errors of records that must not be overwritten."""
        refused: list[NewerRecord] = []
        for _ in range(MAX_ATTEMPTS):
            policy, found = self._policy_and_users(waiting)
            users: list[str] = []  # of each swap
            swaps: list[Swap] = []
            for (user, changes), stored in zip(waiting.items(), found, strict=True):
                try:
                    own = self._swaps(user, stored, changes, policy)
                except NewerRecord as error:
                    refused.append(error)
                    continue
                swaps += own
                users += [user] * len(own)
            done = self.engine.swap(swaps) if swaps else []
            failed = {user for user, was_done in zip(users, done, strict=True) if not was_done}
            waiting = {user: changes for user, changes in waiting.items() if user in failed}
            if not waiting:
                return refused
        raise StoreConflict(
            f"{self.engine.location}: {len(waiting)} users changed during {MAX_ATTEMPTS} attempts to write"
        )

    def _swaps(self, user_id: str, stored: _Stored, changes: list[Profile], policy: Policy) -> list[Swap]:
        """What to replace of a user. Consent comes first: a profile that is alone shows that its consent was lost."""
        profile = None
        if stored.profile is not None:
            try:
                profile = decode_profile(stored.profile, user_id)
            except NewerRecord:
                raise
            except RecordError as error:
                # The event log, not this store, is the source of truth: start again, and mark the profile as truncated.
                log.error("%s: %s; the new data replaces it", self.engine.location, error)
        merged = Profile(user_id)
        for change in changes:
            merged = join_profiles(merged, change, policy.max_events)
        consent = self._merged_consent(user_id, stored, profile, merged.consent, policy)
        old = profile or Profile(user_id, truncated=stored.profile is not None)
        raw_profile = encode_profile(join_profiles(old, merged, policy.max_events))
        raw_consent = stored.consent if consent is None else encode_consent(consent, user_id)
        swaps = (
            Swap(self._consent_key(user_id), stored.consent, raw_consent),
            Swap(self._profile_key(user_id), stored.profile, raw_profile),
        )
        return [swap for swap in swaps if swap.old != swap.new]

    def _merged_consent(
        self,
        user_id: str,
        stored: _Stored,
        profile: Profile | None,
        answers: ConsentRecord | None,
        policy: Policy,
    ) -> ConsentRecord | None:
        """The consent to store; None to leave what is there."""
        try:
            held = self._consent(user_id, stored, profile, policy)
        except NewerRecord:
            raise
        except RecordError as error:
            log.error("%s: %s; only later answers replace it", self.engine.location, error)
            held = None
        if answers is None:
            return held
        moment_us = now_us()
        # What was lost may have been a no: only answers that are given from now on can be a yes.
        held = held or ConsentRecord(lost_us=moment_us - CLOCK_TOLERANCE_US)
        return merge(held, outrank_future(answers, held, moment_us))

    def _replace(self, key: bytes, update: Callable[[bytes | None], bytes | None]) -> None:
        """Set a key to `update(current value)`."""
        for _ in range(MAX_ATTEMPTS):
            (current,) = self.engine.get([key])
            new = update(current)
            if new == current or self.engine.swap([Swap(key, current, new)])[0]:
                return
        raise StoreConflict(f"{self.engine.location}: a record changed during {MAX_ATTEMPTS} attempts to write")


@lru_cache(8)  # read with every batch, and hardly ever different
def _parse_policy(raw: bytes) -> Policy:
    fields = json.loads(raw)
    return Policy(**fields | {"numeric_ids": tuple(fields.get("numeric_ids", ()))})


def _is_later(raw: bytes | None, time_us: int) -> bool:
    try:
        return raw is not None and ItemTrends.from_bytes(raw).time_us > time_us
    except NewerRecord:
        raise
    except RecordError:
        return False
