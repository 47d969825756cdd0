"""The tracker's files, its snippet as documented, and what tests do with a page that has it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
TRACKER = ROOT / "data" / "collect" / "tracker"
DOCUMENT = (ROOT / "docs" / "tracker.md").read_text(encoding="utf-8")
NEVER = 3_600_000  # as `flushMs`: events leave with the page only
EVERYTHING = {"analytics": True, "personalization": True, "model_training": True}
SETTLED = "!Object.keys(localStorage).some((key) => key.startsWith('tidegate.q'))"  # no event waits in storage
OpenPage = Callable[..., Page]


def snippet(**options: Any) -> str:
    """The snippet of docs/tracker.md, with these options of `init`."""
    html = re.search(r"```html\n(.*?)```", DOCUMENT, re.DOTALL)
    assert html is not None
    local = html[1].replace("https://static.example.com/tracker.js", "/tracker.js")
    return re.sub(r"init\(\{.*?\}\)", lambda _: f"init({json.dumps(options)})", local)


def call(page: Page, name: str, *values: Any) -> None:
    """Call a method of the tracker."""
    page.evaluate("([name, values]) => { window.tidegate[name](...values) }", [name, list(values)])


def stored(page: Page) -> dict[str, str]:
    """Everything that the page's origin has in localStorage."""
    return page.evaluate("({...localStorage})")


def queued(page: Page) -> list[dict[str, Any]]:
    """The events that wait in localStorage, oldest first."""
    return [json.loads(text) for key, text in sorted(stored(page).items()) if key.startswith("tidegate.q.")]
