"""Read the online store through a Feast feature server, and where Feast keeps each key. Loads without Feast."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import httpx

from config.redact import without_credentials
from features.online.errors import StoreError, StoreUnavailable
from features.online.store import CONSENT_PREFIX, Swap

VIEWS = ("profile", "consent", "shared")
# Every request reads all views, so that profiles, consent and the policy take one round trip.
FEATURE_NAMES = [f"{view}:{feature}" for view in VIEWS for feature in ("record", "erased")]
ENTITIES = ("dataset", "user_id", "part")
_USER_SEPARATOR = b":profile:"  # as in the keys of `features.online.store`


class FeastRow(NamedTuple):
    """One row of a view. Entities that the view does not have are empty."""

    view: str
    dataset: str
    user_id: str
    part: str

    @property
    def entities(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ENTITIES}


def locate_row(key: bytes) -> FeastRow:
    """The row that holds a key of the online store."""
    if key.startswith(CONSENT_PREFIX):
        dataset, _, user = key.removeprefix(CONSENT_PREFIX).partition(b":")
        return FeastRow("consent", safe_text(dataset), safe_text(user), "")
    dataset, found, user = key.removeprefix(b"tidegate:").partition(_USER_SEPARATOR)
    if found:
        return FeastRow("profile", safe_text(dataset), safe_text(user), "")
    dataset, _, part = dataset.rpartition(b":")
    return FeastRow("shared", safe_text(dataset), "", safe_text(part))


def safe_text(raw: bytes) -> str:
    """Different text for different bytes. Escapes half of a surrogate pair, which Protobuf accepts in no text."""
    return raw.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")


def entity_columns(rows: Sequence[FeastRow]) -> dict[str, list[str]]:
    """The entities of rows, column by column, as Feast takes them."""
    return {name: [getattr(row, name) for row in rows] for name in ENTITIES}


def select_records(rows: Sequence[FeastRow], columns: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The record of each row, from the columns of its view."""
    return [
        _record_or_empty(columns[f"{row.view}__record"][index], columns[f"{row.view}__erased"][index])
        for index, row in enumerate(rows)
    ]


def _record_or_empty(record: Any, erased: bool | None) -> Any:
    """Empty bytes, which are corrupt, for a row that lost its record but was not erased; None would mean no row.

    (Feast stores empty bytes as null.)
    """
    return b"" if record is None and erased is False else record


class ServerEngine:
    """A read-only engine on a pool of connections, safe to share among threads.

    Args:
        url: feast+http://host:port or feast+https://..., with credentials if a proxy before the server needs them.
        timeout_s: the longest wait for a connection, and for a response.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("feast+http", "feast+https"):
            raise StoreError(
                f"{url} needs Feast's library, which is not loaded; read through `feast serve`: feast+http://host:port"
            )
        self.location = without_credentials(url)
        # The server is internal, so the environment's proxies do not apply.
        self._http = httpx.Client(base_url=url.removeprefix("feast+"), timeout=timeout_s, trust_env=False)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        rows = list(map(locate_row, keys))
        body = {"features": FEATURE_NAMES, "entities": entity_columns(rows), "full_feature_names": True}
        try:
            response = self._http.post("/get-online-features", json=body).raise_for_status().json()
            results = zip(response["metadata"]["feature_names"], response["results"], strict=True)
            records = select_records(rows, {name: result["values"] for name, result in results})
            return [None if raw is None else b64decode(raw, validate=True) for raw in records]
        except (httpx.HTTPError, OSError) as error:
            raise StoreUnavailable(f"{self.location}: {error!r}") from None
        except (ValueError, LookupError, TypeError) as error:
            raise StoreUnavailable(f"{self.location}: the response holds no features: {error!r}") from None

    def swap(self, swaps: Sequence[Swap]) -> NoReturn:
        raise StoreError(f"{self.location} is read only; write through feast:///FOLDER of the feature repository")

    def close(self) -> None:
        self._http.close()
