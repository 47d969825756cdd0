"""Where in Feast the bytes of a key lie: in which view and of which entities. Loads without Feast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# One question asks both views, so that profiles and their policy take one round trip. By full names: `view__feature`.
FEATURES = ["profile:record", "profile:erased", "shared:record", "shared:erased"]
_OF_A_USER = b":profile:"  # as `features.online.record_store` makes keys


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
