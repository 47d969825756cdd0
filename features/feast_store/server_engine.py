"""Where in Feast the bytes of a key lie: in which view and of which entities. Loads without Feast."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import httpx

from features.online.errors import StoreError, StoreUnavailable
from features.online.key_value_store import Swap

# One question asks both views, so that profiles and their policy take one round trip. By full names: `view__feature`.
FEATURES = ["profile:record", "profile:erased", "shared:record", "shared:erased"]
_OF_A_USER = b":profile:"  # as `features.online.key_value_store` makes keys


class Place(NamedTuple):
    """One row of the view `profile` or `shared`. What is not an entity of the view is empty."""

    view: str
    dataset: str
    user_id: str
    part: str

    @property
    def entities(self) -> dict[str, str]:
        return {"dataset": self.dataset, "user_id": self.user_id, "part": self.part}


def place(key: bytes) -> Place:
    dataset, found, user = key.removeprefix(b"tidegate:").partition(_OF_A_USER)
    if found:
        return Place("profile", text(dataset), text(user), "")
    dataset, _, part = dataset.rpartition(b":")
    return Place("shared", text(dataset), "", text(part))


def user_of(key: bytes) -> str:
    """The user id in the key of a profile."""
    return key.partition(_OF_A_USER)[2].decode("utf-8", "surrogatepass")


def text(raw: bytes) -> str:
    """Another text for any other bytes. Half a surrogate pair, which Protobuf takes in no text, is spelt out."""
    return raw.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")


def entities(places: Sequence[Place]) -> dict[str, list[str]]:
    """Column by column, as Feast asks for them."""
    return {name: [each.entities[name] for each in places] for name in ("dataset", "user_id", "part")}


def chosen(places: Sequence[Place], columns: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Of each row the record that its view holds."""
    return [
        _held(columns[f"{each.view}__record"][row], columns[f"{each.view}__erased"][row])
        for row, each in enumerate(places)
    ]


def _held(record: Any, erased: bool | None) -> Any:
    """A row without a record that nobody erased cannot be read; None would say that there is no row. (Feast keeps
    empty bytes as null.)"""
    return b"" if record is None and erased is False else record


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
