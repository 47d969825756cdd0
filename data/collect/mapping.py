"""Turn the names and properties of tracking tools into events of our schema, by rules in YAML.

`mapping.yaml` next to this file holds the rules for Segment's and GA4's e-commerce and video events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config.command import UserError
from data.collect.schema import EVENT_TYPES, Event, ItemEvent

DEFAULT = Path(__file__).with_suffix(".yaml")
TYPE, EACH = "type", "each"
OF_EVERY_EVENT = {
    field for field in Event.__struct_fields__ if field != "session_id"
}  # these come from the message itself


class MappingError(UserError):
    """A mapping file is invalid; the message names the file, the event and the key."""


@dataclass(frozen=True)
class Rule:
    """How one kind of event is read: `paths` holds for each of our fields the properties that may hold it."""

    type: str
    paths: Mapping[str, tuple[str, ...]]
    each: str | None = None

    def unknown(self, properties: Mapping[str, Any]) -> str | None:
        """The first property that the rule does not use; None if there is none."""
        known = {path.partition(".")[0] for paths in self.paths.values() for path in paths} | {self.each}
        elements = properties.get(self.each) if self.each else None
        for place in (properties, *(elements if isinstance(elements, list) else ())):
            for name in place if isinstance(place, dict) else ():
                if name not in known:
                    return name
        return None

    def fields(self, properties: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The fields of each event in the properties; a field without a value is missing."""
        elements = properties.get(self.each) if self.each else None
        if not isinstance(elements, list):
            yield self._of_one((properties,))
            return
        for element in elements:
            yield self._of_one((element, properties) if isinstance(element, dict) else (properties,))

    def _of_one(self, places: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
        found = {}
        for field, paths in self.paths.items():
            for place in places:
                value = _first(place, paths)
                if value is not None:
                    found[field] = value
                    break
        return found


def own_rules() -> dict[str, Rule]:
    """Our own types by their names: their properties have the names of the schema's fields."""
    types = {name: cls for name, cls in EVENT_TYPES.items() if issubclass(cls, ItemEvent) or name == "search"}
    return {name: Rule(name, {field: (field,) for field in _own_fields(cls)}) for name, cls in types.items()}


def _own_fields(cls: type[Event]) -> list[str]:
    return [field for field in cls.__struct_fields__ if field not in OF_EVERY_EVENT]


def load_rules(own: Path | None = None) -> dict[str, Rule]:
    """Event name -> rule: our own types, those of mapping.yaml, and those of another file, which replace them.

    Raises:
        MappingError: a file cannot be read, or a rule names a type or a field that the schema does not have.
    """
    rules = own_rules()
    for path in (DEFAULT, own):
        if path is not None:
            rules |= _read(path)
    return rules


def _read(path: Path) -> dict[str, Rule]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MappingError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict):
        raise MappingError(f"{path} holds no mapping of event names to rules")
    return {str(name): _parse(f"{path}: {name!r}", entry) for name, entry in entries.items()}


def _parse(place: str, entry: Any) -> Rule:
    if not isinstance(entry, dict) or entry.get(TYPE) not in EVENT_TYPES:
        raise MappingError(f"{place} needs a `{TYPE}` of {', '.join(EVENT_TYPES)}")
    known = _own_fields(EVENT_TYPES[entry[TYPE]])
    paths = {field: (field,) for field in known}
    for field, names in entry.items():
        if field in (TYPE, EACH):
            continue
        if field not in known:
            raise MappingError(f"{place}: {entry[TYPE]} has no field {field!r}; it has {', '.join(known)}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise MappingError(f"{place}: {field} is {names!r}; expected a list of properties")
        paths[field] = tuple(names)
    return Rule(entry[TYPE], paths, entry.get(EACH))


def _first(place: Mapping[str, Any], paths: tuple[str, ...]) -> Any:
    """The first value that is not empty; None if there is none."""
    for path in paths:
        value = _lookup(place, path) if "." in path else place.get(path)
        if value is not None and value != "":
            return value
    return None


def _lookup(place: Any, path: str) -> Any:
    """The value at a path such as `content_asset_ids.0`; None if there is none."""
    for part in path.split("."):
        if isinstance(place, list) and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, dict):
            place = place.get(part)
        else:
            return None
    return place
