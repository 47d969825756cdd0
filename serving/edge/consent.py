"""Whether an answer may be personal: reads the user's consent, and what else the edge needs of a profile, from a store.

Whatever holds profiles plugs in by `ProfileReader`'s two methods.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from data.consent import PERSONALIZATION, Decision, decide
from data.times import to_iso
from features.feast_server import ServerEngine
from features.online import profile as online_profile
from features.online import store as online_store
from features.online.connect import FEAST_SCHEMES, STORE_VARIABLE, connect_to_read, read_settings
from features.online.profile import Profile
from serving.circuit_breaker import Breaker
from serving.worker.request import MAX_HISTORY

LOST, UNKNOWN = "lost", "unknown"  # of the metric and the served log, next to the values of Decision
DENIED_REASON = "the user does not consent to personalization"
LOST_REASON = "the user's consent to personalization was lost, which counts as a no"
NOT_ASKED_REASON = "the user was not asked for consent to personalization"


@dataclass(frozen=True)
class UserProfile:
    """What the edge needs to know of a user."""

    consent: Decision  # to personalization
    version: str  # changes whenever the stored profile does; the key of cached answers includes it
    features: dict[str, Any] | None = None  # history and context to send, where the worker cannot read the store
    lost_consent: bool = False  # whether the store had an answer and cannot read it


NO_PROFILE = UserProfile(Decision.NOT_ASKED, "")


class ProfileReader(Protocol):
    """Where profiles are read."""

    async def read(self, user_id: str) -> UserProfile:
        """One round trip; any exception means that the store gave no answer."""

    def close(self) -> None:
        """Close connections."""


@dataclass
class OnlineProfileReader:
    """The online store. Reads in a thread, since the store's client blocks."""

    open_store: Callable[[], online_store.ProfileStore]  # called when first needed, and again after it failed
    sends_features: bool = False  # whether requests carry the stored history, since the worker cannot read the store
    _store: online_store.ProfileStore | None = None

    @classmethod
    def from_environment(cls, dataset: str) -> OnlineProfileReader:
        """The store that the environment names, else this project's own, with the profiles of a dataset."""
        is_feast = os.environ.get(STORE_VARIABLE, "").startswith(FEAST_SCHEMES)  # only the edge can read Feast's server
        return cls(lambda: connect_to_read(dataset, read_settings(), ServerEngine), is_feast)

    async def read(self, user_id: str) -> UserProfile:
        return await asyncio.to_thread(self._read, user_id)

    def _read(self, user_id: str) -> UserProfile:
        self._store = self._store or self.open_store()
        now_us = time.time_ns() // 1000
        (reading,) = self._store.read([user_id], [now_us])
        consent, is_lost = decide(reading.consent, PERSONALIZATION, now_us), reading.consent is None
        if reading.profile is None:
            return UserProfile(consent, "", lost_consent=is_lost)
        features = request_features(reading.profile, now_us) if self.sends_features else None
        return UserProfile(consent, profile_version(reading.profile), features, is_lost)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


def profile_version(profile: Profile) -> str:
    """A text that changes with the profile: when something was last learned, the number of events, the newest event.

    An event that arrives late changes the number of events, or the time of learning.
    """
    newest = profile.events[-1].event_id if profile.events else ""
    return f"{profile.feature_time_us}:{len(profile.events)}:{newest}"


def request_features(profile: Profile, now_us: int) -> dict[str, Any]:
    """A profile as a request's history and context.

    It has no event ids: the worker orders events of one time by item, where it orders those of its own store by id.
    """
    events = online_profile.visible_events(profile, now_us, "all")[-MAX_HISTORY:]
    history = [{"item_id": event.item_id, "event_time": to_iso(event.time_us)} for event in events]
    return {"history": history, "context": online_profile.visible_traits(profile, now_us)}


class ConsentDecision(NamedTuple):
    """What an answer may use; `version` and `features` are the profile's."""

    consent: str  # granted, denied, not_asked, lost or unknown
    refusal: str | None  # why the answer may not be personal; None: it may
    version: str = ""
    features: dict[str, Any] | None = None

    @property
    def is_personal(self) -> bool:
        return self.refusal is None


@dataclass
class ConsentCheck:
    """Decides whether an answer may be personal; a store that fails costs personalization, never an answer."""

    store: ProfileReader
    breaker: Breaker
    timeout: float  # seconds that a read may take
    personalizes_by_default: bool  # whether users who were not asked get personal answers

    async def decide(self, user_id: str | None, client_consent: bool | None, seconds: float) -> ConsentDecision:
        """What the answer to a request may use.

        Args:
            client_consent: from the client. Its denial always holds; its grant holds where the store has no answer.
            seconds: until the request must be answered.
        """
        if client_consent is False:
            return ConsentDecision(Decision.DENIED, DENIED_REASON)
        profile = NO_PROFILE if user_id is None else await self._read(user_id, seconds)
        if isinstance(profile, str):
            return ConsentDecision(UNKNOWN, f"{profile}, so the user's consent to personalization is not known")
        if profile.lost_consent:
            return ConsentDecision(LOST, LOST_REASON)
        if profile.consent is Decision.DENIED:
            return ConsentDecision(Decision.DENIED, DENIED_REASON)
        if profile.consent is Decision.GRANTED or client_consent:
            return ConsentDecision(Decision.GRANTED, None, profile.version, profile.features)
        refusal = None if self.personalizes_by_default else NOT_ASKED_REASON
        return ConsentDecision(Decision.NOT_ASKED, refusal, profile.version, profile.features)

    async def _read(self, user_id: str, seconds: float) -> UserProfile | str:
        """The user's profile, or why the store gave none within `seconds` and the timeout; clients read the text."""
        if not self.breaker.allows():
            return "the profile store was not read because it kept failing"
        limit = min(seconds, self.timeout)
        if limit <= 0:
            return "no time was left to read the profile store"
        begun = self.breaker.clock()
        try:
            async with asyncio.timeout(limit):
                profile = await self.store.read(user_id)
        except TimeoutError:
            if limit >= self.timeout:  # a client's short deadline is not the store's fault
                self.breaker.failed(begun)
            return f"the profile store did not answer within {limit * 1000:.0f} ms"
        except Exception as error:
            self.breaker.failed(begun)
            return f"the profile store failed ({type(error).__name__})"
        self.breaker.succeeded()
        return profile
