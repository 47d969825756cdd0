"""Who may ask, how often, and for whom."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from serving.edge import keyring
from serving.edge.errors import Refusal
from serving.edge.keyring import USER, Key, KeyringError
from serving.edge.limit import Limit

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # a key that is revoked opens nothing after this
CHALLENGE = ((b"www-authenticate", b"Bearer"),)


class Doorkeeper:
    """Knows the keys of the file and of the environment; notices when the file changes.

    Args:
        path: of the stored keys; it may come to be later.
        stated: keys of the environment.
        limit: how often each may ask.
        clock: seconds, monotonic.
    """

    def __init__(
        self, path: Path, stated: list[Key], limit: Limit, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._stated, self._limit, self._clock = path, stated, limit, clock
        self._keys: dict[str, Key] = {}
        self._look_again = 0.0
        self._seen = self._stamp()
        self._load(keyring.read(path))

    @property
    def knows_nobody(self) -> bool:
        self._look()
        return not self._keys

    def admit(self, authorization: bytes | None, api_key: bytes | None) -> Key:
        """The key of a request.

        Args:
            authorization, api_key: the headers Authorization (Bearer) and X-API-Key.

        Raises:
            Refusal: 401 where there is no key, or none that holds; 429 where it asks too often.
        """
        self._look()
        key = self._keys.get(keyring.digest(_text(authorization, api_key)))
        if key is None:
            raise Refusal(401, "authorization", "the API key is not known, or has been revoked", CHALLENGE)
        if key.expired(datetime.now(UTC)):
            raise Refusal(401, "authorization", f"the API key expired at {key.expires}", CHALLENGE)
        wait = self._limit.take(key.id)
        if wait:
            seconds = str(math.ceil(wait)).encode()
            raise Refusal(429, None, f"the API key asks too often; go on in {wait:.2f} s", ((b"retry-after", seconds),))
        return key

    def _look(self) -> None:
        now = self._clock()
        if now < self._look_again:
            return
        self._look_again = now + LOOK_SECONDS
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            self._load(keyring.read(self._path))
            self._seen = stamp
        except KeyringError as error:  # the keys that were good a moment ago go on
            log.error("the keys stay as they were: %s", error)

    def _load(self, keys: list[Key]) -> None:
        self._keys = {key.sha256: key for key in [*keys, *self._stated]}

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_size, about.st_ino


def whose(key: Key, user_id: str | None) -> str | None:
    """The user to answer for.

    Raises:
        Refusal: 403 where the key is of another user.
    """
    if key.role != USER:
        return user_id
    if user_id is not None and user_id != key.user_id:
        raise Refusal(403, "user_id", "the API key may ask for one user, and this is another")
    return key.user_id


def _text(authorization: bytes | None, api_key: bytes | None) -> str:
    if authorization is not None:
        scheme, _, text = authorization.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and text.strip():
            return text.strip()
    elif api_key:
        return api_key.decode("latin-1").strip()
    told = "expected `Authorization: Bearer KEY` or `X-API-Key: KEY`"
    raise Refusal(401, "authorization", told, CHALLENGE)
