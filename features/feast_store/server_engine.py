"""Bytes by key from Feast's feature server (`feast serve`), over HTTP: to read, without Feast's packages."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from features.feast_store.places import FEATURES, chosen, entities, place
from features.online.errors import StoreError, StoreUnavailable
from features.online.record_store import Swap


class ServerEngine:
    """A pool of connections, safe to share among threads.

    Args:
        url: feast+http://host:port or feast+https://..., with credentials where something before the server wants them.
        timeout_s: the longest wait for a connection, and for an answer.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("feast+http", "feast+https"):
            raise StoreError(
                f"{url} is Feast's library, which does not load here; read through `feast serve`: feast+http://host:port"
            )
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        # Without the environment's proxies: the server is one of ours.
        self._http = httpx.Client(base_url=url.removeprefix("feast+"), timeout=timeout_s, trust_env=False)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        places = list(map(place, keys))
        asked = {"features": FEATURES, "entities": entities(places), "full_feature_names": True}
        answer = self._ask("POST", "/get-online-features", json=asked)
        try:
            return [None if raw is None else b64decode(raw, validate=True) for raw in chosen(places, _columns(answer))]
        except (ValueError, LookupError, TypeError) as error:
            raise StoreUnavailable(f"{self.place}: what it answered is no features: {error!r}") from None

    def swap(self, swaps: Sequence[Swap]) -> NoReturn:
        raise StoreError(f"{self.place} is read only; write through feast:///FOLDER, where the feature repository lies")

    def ping(self) -> None:
        self._ask("GET", "/health")

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **content).raise_for_status()
        except (httpx.HTTPError, OSError) as error:
            raise StoreUnavailable(f"{self.place}: {error!r}") from None


def _columns(answer: httpx.Response) -> dict[str, list[Any]]:
    body = answer.json()
    names, results = body["metadata"]["feature_names"], body["results"]
    return {name: one["values"] for name, one in zip(names, results, strict=True)}
