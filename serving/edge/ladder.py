"""The way down: TorchServe's answer, else this user's last one, else the popular list, else the static one.

Each step is bounded by what is left of the deadline, and each answer says on which rung it stands and why.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from serving.edge.answer import Answer, read, seal, without
from serving.edge.cache import Cache
from serving.edge.coalesce import Flights
from serving.edge.consent import Guarded, Standing
from serving.edge.errors import NoAnswer, StoreError, TooSlow
from serving.edge.experiment import NOBODY, Bucket
from serving.edge.listing import EMPTY, Listing
from serving.edge.pseudonym import hidden
from serving.edge.trial import Trial
from serving.edge.wire import Wire, wire_of
from serving.worker.request import MAX_K, Request

DENIED = "the user does not agree to personalisation"
FILTERED = "filters cannot be applied without TorchServe, so nothing is listed"
UNASKED = "nobody asked the user to agree to personalisation"


@dataclass(frozen=True)
class Ask:
    """One checked request, and the circumstances in which it is asked.

    Attributes:
        body: its JSON as stated, with the user that the key is for.
        consent: what the client says of the user's consent. Its no holds; its yes where nobody else asked.
        allowed_ms: from the whole request to its answer.
        end: when that is over, on the event loop's clock, in seconds.
    """

    request: Request
    body: dict[str, Any]
    consent: bool | None
    allowed_ms: int
    end: float

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.end - asyncio.get_running_loop().time()


class Given(NamedTuple):
    """An answer, in which arm it was given, and whether it had to be computed: miss, hit, shared or none."""

    answer: Answer
    bucket: Bucket
    cache: str
    consent: str  # granted, denied, unasked or unknown
    wire: Wire


class Word(NamedTuple):
    """What is known of a user's consent; `reason` says why the answer may not be personal, None that it may."""

    consent: str
    state: str
    reason: str | None
    told: dict[str, Any] | None = None


@dataclass
class Ladder:
    """Attributes:
    secret: keys the hashes under which answers are cached, so that a shared cache names no user.
    static: the list that needs nothing else to work.
    reserve: seconds of each deadline that are kept for the way down.
    """

    upstream: Trial
    users: Guarded
    cache: Cache
    secret: bytes
    static: Listing
    reserve: float
    cache_seconds: float
    stale_seconds: float
    unasked: bool
    popular: Listing | None = None  # TorchServe's last
    version: str = ""  # that TorchServe answers with by default, as it said last
    flights: Flights[Answer] = field(default_factory=Flights)

    async def answer(self, ask: Ask) -> Given:
        """Always an answer.

        Raises:
            Refusal: the worker finds fault with the request.
        """
        word = await self._word(ask)
        user = ask.request.user_id
        bucket = self.upstream.bucket(user) if user is not None and word.reason is None else NOBODY
        wire = wire_of(ask.body, ask.request, word.reason is not None, word.told)
        version = self.upstream.available(bucket.version)
        # By the reason too: those who may not have a personal answer share one, but not what each is told of it.
        key = self._digest(f"{word.state}\n{word.reason}".encode(), wire.body)
        found = await self._kept(key + (version or self.version).encode(), ask)
        if found is not None:
            return Given(found, bucket, "hit", word.consent, wire)
        try:
            answer, shared = await self.flights.join(
                key + f"{version} {ask.allowed_ms}".encode(),  # the patient are not to share an impatient one's failure
                lambda: self._fresh(ask, word, wire.body, version, key),
                max(0.0, self._time(ask)),
            )
            return Given(answer, bucket, "shared" if shared else "miss", word.consent, wire)
        except NoAnswer as error:
            failure = error
        except TimeoutError:
            failure = TooSlow("TorchServe did not answer in time")
        return Given(await self._below(ask, word, failure.text), bucket, "none", word.consent, wire)

    async def refresh(self, seconds: float) -> None:
        """Ask TorchServe for its popular list and its version. Raises NoAnswer, Refusal."""
        fields = await self.upstream.ask(orjson.dumps({"history": [], "k": MAX_K}), None, seconds, counted=False)
        self.popular, self.version = Listing.of(fields), fields["model_version"]

    def last_resort(self, ask: Ask, why: str) -> Answer:
        """The static list: needs nothing that could fail."""
        request = ask.request
        return seal(self.static.fields("static", f"{why}; {_describe(self.static)}", request.k, request.exclude))

    def _time(self, ask: Ask) -> float:
        """Seconds that others may still take; a short deadline keeps less for the way down, or none would be left."""
        return ask.left() - min(self.reserve, ask.allowed_ms / 1000 / 4)

    async def _word(self, ask: Ask) -> Word:
        if ask.consent is False:
            return Word("denied", "", DENIED)
        if ask.request.user_id is None:
            return self._unasked(ask, Standing(None, ""))
        try:
            standing = await self.users.read(ask.request.user_id, self._time(ask))
        except StoreError as error:
            return Word("unknown", "", f"{error}, so whether the user agrees to personalisation is not known")
        if standing.consent is None:
            return self._unasked(ask, standing)
        if not standing.consent:
            return Word("denied", "", DENIED)
        return Word("granted", standing.state, None, standing.told)

    def _unasked(self, ask: Ask, standing: Standing) -> Word:
        """The word on one of whom no store holds a word: the client's, else the settings'."""
        if ask.consent:
            return Word("granted", standing.state, None, standing.told)
        return Word("unasked", standing.state, None if self.unasked else UNASKED, standing.told)

    async def _fresh(self, ask: Ask, word: Word, wire: bytes, version: str | None, key: bytes) -> Answer:
        fields = await self.upstream.ask(wire, version, self._time(ask))
        if word.reason is not None:
            fields["reason"] = word.reason
        fields["inputs"] = hidden(self.secret, fields.get("inputs"))
        answer = seal(fields)
        if version is None:
            self.version = answer.version
        packed = answer.pack()
        if not _fell_short(word, answer):
            self.cache.put(key + answer.version.encode(), packed, self.cache_seconds)
        if word.reason is None and answer.rung != "popular":  # everybody's list is no answer of this user's
            self.cache.put(self._last(ask), packed, self.stale_seconds)
        return answer

    async def _below(self, ask: Ask, word: Word, failure: str) -> Answer:
        request = ask.request
        unwanted = set(request.exclude)
        why = failure if word.reason is None else f"{word.reason}; {failure}"
        if word.reason is None:
            unwanted |= {item for item, _ in request.history}  # what was seen does not come back on a lower rung either
            last = await self._kept(self._last(ask), ask)
            fields = read(last) if last is not None else {"items": []}
            if items := without(fields["items"], unwanted, request.k):
                reason = f"{why}; this is the user's answer of {fields['time']}"
                return seal(fields | {"items": items, "rung": "cached", "reason": reason})
        if ask.body.get("filters"):  # better nothing than what the filter is there to keep away
            return seal(EMPTY.fields("static", f"{why}; {FILTERED}", request.k, unwanted))
        if self.popular is not None:
            reason = f"{why}; this is TorchServe's popular list of {self.popular.time}"
            return seal(self.popular.fields("popular", reason, request.k, unwanted))
        return seal(self.static.fields("static", f"{why}; {_describe(self.static)}", request.k, unwanted))

    async def _kept(self, key: bytes, ask: Ask) -> Answer | None:
        packed = await self.cache.get(key, max(0.0, ask.left()))
        if packed is None:
            return None
        try:
            return Answer.unpack(packed)
        except ValueError:  # somebody else's bytes under our key
            return None

    def _last(self, ask: Ask) -> bytes:
        """Where the last answer of the same user is kept; without a user, of the same history and context."""
        user, stated = ask.request.user_id, ask.body.get
        who = [stated("history"), stated("context")] if user is None else user
        return self._digest(b"last", orjson.dumps([who, stated("filters")], option=orjson.OPT_SORT_KEYS))

    def _digest(self, kind: bytes, content: bytes) -> bytes:
        hasher = blake2b(key=self.secret, digest_size=16)
        hasher.update(len(kind).to_bytes(4, "big") + kind + content)
        return hasher.hexdigest().encode()


def _fell_short(word: Word, answer: Answer) -> bool:
    """Whether the worker gave no personal answer to one of whom the store knows something: its own reading may have
    failed for a moment, which is nothing to repeat to the user for as long as answers are kept."""
    return word.reason is None and bool(word.state) and answer.rung != "personalised"


def _describe(listing: Listing) -> str:
    if not listing.items:
        return "no model was ever exported here, so there is nothing to list"
    return f"this is the list of version {listing.model_version}, exported as of {listing.trends_time}"
