"""A site with the tracker in headless Chromium, and a collector that records what arrives."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from recording_collector import RecordingCollector
from tracked_site import TRACKER, OpenPage, snippet

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, shared by the tests of a file; each test has a profile of its own."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def shared_profile(browser: Browser) -> BrowserContext:
    """A profile for all tests of a file. Their sites have ports of their own, so no test sees the storage of another."""
    return browser.new_context()


@pytest.fixture
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """A profile without history, for tests that change its settings or its clock. It takes longer than a shared one."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def collector() -> Iterator[RecordingCollector]:
    server = RecordingCollector().start()
    yield server
    server.stop()


@pytest.fixture
def site() -> Iterator[RecordingCollector]:
    """A site of another origin than the collector's."""
    server = RecordingCollector().start()
    server.pages["/without-tracker"] = "<!doctype html>"
    server.pages["/tracker.js"] = (TRACKER / "tracker.js").read_text(encoding="utf-8")
    yield server
    server.stop()


@pytest.fixture
def open_page(
    shared_profile: BrowserContext, site: RecordingCollector, collector: RecordingCollector
) -> Iterator[OpenPage]:
    """Open a page of the site and wait until the tracker has loaded: in the first tab, or in the one given as `page`.

    Keywords: new_tab, to open it in another one; setup, JavaScript that runs before the tracker; head and body, HTML
    before the snippet and after it. The others are options of `init`.
    """

    def run(
        path: str = "/",
        *,
        page: Page | None = None,
        new_tab: bool = False,
        setup: str = "",
        head: str = "",
        body: str = "",
        **options: Any,
    ) -> Page:
        given = {"writeKey": "key-1", "endpoint": collector.url, "consent": "granted", "pages": False}
        given |= {"flushMs": 50, "retryMs": 50} | options
        script = f"<script>{setup}</script>"
        site.pages["*"] = f"<!doctype html><title>Shop</title>{script}{head}{snippet(**given)}<body>{body}</body>"
        if page is None:
            tabs = shared_profile.pages
            page = shared_profile.new_page() if new_tab or not tabs else tabs[0]
        page.goto(site.url + path)
        page.wait_for_function("window.tidegate.isLoaded")
        return page

    yield run
    for number, page in enumerate(shared_profile.pages):
        if number > 0:
            page.close()
        else:
            page.goto(f"{site.url}/without-tracker")  # a page of the same host keeps the browser's process
