"""How much one API key may send: requests and bytes per second, and the size of a body. A key for one user may send less."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.edge.keys import ApiKey
from serving.edge.settings import EdgeSettings
from web.errors import ApiError
from web.rate_limit import RateLimit

# A full history has 3 per event: what opens it, what parts it from the next, and what parts its two fields.
MAX_VALUES, MAX_USER_VALUES = 50_000, 5_000


@dataclass
class KeyLimits:
    """The limits of one kind of key."""

    prefix: str  # of the settings' names
    requests: RateLimit
    body_bytes: RateLimit
    max_body_bytes: int
    max_values: int  # of the JSON of a body

    @classmethod
    def for_server_keys(cls, settings: EdgeSettings) -> KeyLimits:
        """The limits of keys for any user."""
        rates = settings.rate_per_second, settings.rate_burst, settings.bytes_per_second
        return cls._in_one_process("", settings.workers, *rates, settings.max_body_bytes, MAX_VALUES)

    @classmethod
    def for_user_keys(cls, settings: EdgeSettings) -> KeyLimits:
        """The limits of keys for one user."""
        rates = settings.user_rate_per_second, settings.user_rate_burst, settings.user_bytes_per_second
        max_body_bytes = min(settings.user_max_body_bytes, settings.max_body_bytes)
        return cls._in_one_process("user_", settings.workers, *rates, max_body_bytes, MAX_USER_VALUES)

    @classmethod
    def _in_one_process(
        cls,
        prefix: str,
        workers: int,
        per_second: float,
        burst: float,
        bytes_per_second: float,
        max_body_bytes: int,
        max_values: int,
    ) -> KeyLimits:
        """Requests spread over the processes, and so do a key's tokens; a body must fit into each one's bucket."""
        requests = RateLimit(per_second / workers, max(1.0, burst / workers))
        bytes_in_second = bytes_per_second / workers
        limit = RateLimit(bytes_in_second, max(bytes_in_second, max_body_bytes))
        return cls(prefix, requests, limit, max_body_bytes, max_values)

    def take_request(self, key: ApiKey) -> None:
        """Count a request. Raises ApiError: 429."""
        self._take(self.requests, "rate_per_second", "requests", key, 1)

    def take_bytes(self, key: ApiKey, amount: int) -> None:
        """Count bytes of a body. Raises ApiError: 429."""
        self._take(self.body_bytes, "bytes_per_second", "bytes", key, amount)

    def _take(self, limit: RateLimit, name: str, what: str, key: ApiKey, amount: int) -> None:
        if wait := limit.take(key.id, amount):
            message = f"the API key sends too many {what}: {self.prefix}{name} is the limit; wait {wait:.2f} s"
            raise ApiError(429, None, message, {"Retry-After": str(math.ceil(wait))}, reason=f"{self.prefix}{name}")


class Limits:
    """The limits of all keys."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._server_keys, self._user_keys = KeyLimits.for_server_keys(settings), KeyLimits.for_user_keys(settings)

    def of(self, key: ApiKey) -> KeyLimits:
        return self._server_keys if key.user_id is None else self._user_keys
