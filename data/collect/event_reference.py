"""Write the event reference (docs/events.md) and the JSON Schema (docs/event-schema.json) from the event schema."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from config.command import exits_cleanly
from config.paths import ROOT
from data.collect.mapping import Rule, load_rules
from data.collect.schema import EVENT_TYPES, PURPOSES, VERSION, Event, ItemEvent, json_schema

PAGE, SCHEMA = ROOT / "docs" / "events.md", ROOT / "docs" / "event-schema.json"
LIMITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "at least {:g}",
    "maximum": "at most {:g}",
    "exclusiveMinimum": "more than {:g}",
    "maxProperties": "at most {} entries",
    "pattern": "matches `{}`",
}
INTRODUCTION = f"""# Events

Written by `python -m data.collect.event_reference` from `data/collect/schema.py`; do not edit. Version {VERSION}.

What the [event collector](collection.md) stores. The [JSON Schema](event-schema.json) is also served at `/v1/schema`.
Times are microseconds since 1970 in UTC. A field may serve all purposes ({", ".join(PURPOSES)})
unless its line names some. "Days" is how long it is kept.
"""


def event_reference() -> str:
    """The page, in Markdown."""
    definitions = json_schema()["$defs"]
    sections = [
        INTRODUCTION,
        _section("Fields of every event", definitions["Page"], Event.__struct_fields__),
        _section("Fields of `context`", definitions["Context"], definitions["Context"]["properties"]),
        _section("Fields of every event about an item", definitions["View"], _own(ItemEvent, Event)),
        "## Types\n",
    ]
    for name, cls in EVENT_TYPES.items():
        definition = definitions[cls.__name__]
        parent = ItemEvent if issubclass(cls, ItemEvent) else Event
        sections.append(f"### {name}\n\n{definition['description']}\n")
        if own := _own(cls, parent):
            sections.append(_table(definition, own))
    sections.append(_names(load_rules()))
    return "\n".join(sections)


def _own(cls: type[Event], parent: type[Event]) -> list[str]:
    return [field for field in cls.__struct_fields__ if field not in parent.__struct_fields__]


def _section(title: str, definition: dict[str, Any], fields: Any) -> str:
    return f"## {title}\n\n{_table(definition, fields)}"


def _table(definition: dict[str, Any], fields: Any) -> str:
    lines = ["| field | meaning | value | privacy | days |", "| --- | --- | --- | --- | --- |"]
    for field in fields:
        outer = definition["properties"][field]
        entry = next((option for option in outer.get("anyOf", ()) if "x-privacy" in option), outer)
        if "x-privacy" in entry:
            required = " Required." if field in definition.get("required", ()) else ""
            lines.append(
                f"| `{field}` | {entry['description']}{required} | {_value(entry)} | {_privacy(entry)}"
                f" | {entry['x-retention-days']} |"
            )
    return "\n".join(lines) + "\n"


def _value(entry: dict[str, Any]) -> str:
    if choices := entry.get("enum"):
        return ", ".join(map(str, choices))
    limits = [text.format(entry[name]) for name, text in LIMITS.items() if name in entry]
    return ", ".join([str(entry.get("type", "")), *limits]).replace("|", "\\|")


def _privacy(entry: dict[str, Any]) -> str:
    purposes = entry["x-purposes"]
    return entry["x-privacy"] + ("" if purposes == list(PURPOSES) else f"; {', '.join(purposes)} only")


def _names(rules: dict[str, Rule]) -> str:
    lines = ["## Names of other tools\n", "| event | type | item |", "| --- | --- | --- |"]
    for name, rule in rules.items():
        if name not in EVENT_TYPES or rule.each:
            each = f" of each of `{rule.each}`" if rule.each else ""
            items = ", ".join(f"`{path}`" for path in rule.paths.get("item_id", ()))
            lines.append(f"| {name} | {rule.type} | {items}{each if items else ''} |")
    return "\n".join(lines) + "\n"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m data.collect.event_reference", description=__doc__).parse_args(argv)
    PAGE.write_text(event_reference(), encoding="utf-8")
    SCHEMA.write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
    print(f"-> {PAGE.relative_to(ROOT)}, {SCHEMA.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
