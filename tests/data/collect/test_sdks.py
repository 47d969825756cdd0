"""The SDKs of Segment and RudderStack, unchanged, deliver every event once through two failures and a limit."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from collector_app import RunningCollector
from injected_errors import InjectedErrors

from data.collect.schema import Event, Identify, Page, View

pytestmark = pytest.mark.slow

SDKS = Path(__file__).resolve().parent / "sdks"
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "collection.md"
VIEWS = 60
SECONDS = 60  # until all is delivered; the SDKs wait a few seconds between attempts
NO_REGISTRY = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|ENETUNREACH|\bE[45]\d\d\b")


class FailingCollector(RunningCollector):
    """A collector whose first three answers are 500, 500 and 429."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, wrap=self._fail_first)

    def _fail_first(self, app: object) -> InjectedErrors:
        self.errors = InjectedErrors(app)
        return self.errors


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[FailingCollector]:
    collector = FailingCollector(tmp_path / "collect")
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def node() -> str:
    """Node.js, with the SDKs of sdks/package-lock.json installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js and npm are not installed")
    lock = (SDKS / "package-lock.json").read_text(encoding="utf-8")
    installed = SDKS / "node_modules" / ".installed"
    if not installed.exists() or installed.read_text(encoding="utf-8") != lock:
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=SDKS, capture_output=True, encoding="utf-8", timeout=300)
        if done.returncode and NO_REGISTRY.search(done.stderr):
            pytest.skip(f"npm could not install the SDKs: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
        installed.write_text(lock, encoding="utf-8")
    return node


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def check_delivered(collector: FailingCollector, expected: int = VIEWS + 2) -> list[Event]:
    """The identify, the page and each view are in the log once, after the injected errors."""
    wait_for(lambda: len(collector.logged()) >= expected)
    events = collector.events()
    assert not collector.errors.left
    assert Counter(type(event) for event in events) == {Identify: 1, Page: 1, View: VIEWS}
    assert {event.item_id for event in events if isinstance(event, View)} == {f"item-{n}" for n in range(VIEWS)}
    assert {event.user_id for event in events} == {"ann"}
    assert [event.traits for event in events if isinstance(event, Identify)] == [{"plan": "free"}]
    assert len({event.event_id for event in events}) == len(events)
    assert not list(collector.app.state.service.rejected.search())
    now_us = time.time_ns() // 1000
    assert all(now_us - 600_000_000 < event.event_time <= now_us for event in events)
    return events


@pytest.mark.parametrize(
    ("module", "options"), [("segment.analytics.client", {"gzip": True}), ("rudderstack.analytics.client", {})]
)
def test_python_sdks(failing: FailingCollector, module: str, options: dict[str, bool]) -> None:
    client = importlib.import_module(module).Client(failing.key, host=failing.url, **options)
    client.identify("ann", {"plan": "free"})
    client.page("ann", name="Home")
    for number in range(VIEWS):
        client.track("ann", "view", {"item_id": f"item-{number}"})
    client.flush()
    client.join()
    check_delivered(failing)


@pytest.mark.parametrize("sdk", ["@segment/analytics-node", "@rudderstack/rudder-sdk-node"])
def test_an_sdk_for_node(sdk: str, node: str, failing: FailingCollector) -> None:
    command = [node, "send.mjs", sdk, failing.url, failing.key, str(VIEWS)]
    environment = os.environ | {"NO_PROXY": "127.0.0.1"}
    subprocess.run(command, cwd=SDKS, env=environment, check=True, timeout=2 * SECONDS)
    check_delivered(failing)


def test_segments_browser_sdk(node: str, failing: FailingCollector, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright
    from recording_collector import RecordingCollector

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    bundle = tmp_path / "page.js"
    esbuild = SDKS / "node_modules" / ".bin" / "esbuild"
    command = [esbuild, "page.mjs", "--bundle", "--format=iife", f"--outfile={bundle}", "--log-level=warning"]
    subprocess.run(command, cwd=SDKS, check=True, timeout=SECONDS)
    site = RecordingCollector().start()
    site.pages["/page.js"] = bundle.read_text(encoding="utf-8")
    site.pages["*"] = '<!doctype html><title>Shop</title><script src="/page.js"></script>'
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page()
        page.goto(site.url)
        page.evaluate("([url, key, count]) => { send(url, key, count) }", [failing.url, failing.key, VIEWS])
        wait_for(lambda: page.evaluate("1") and len(failing.logged()) >= VIEWS + 2)
        browser.close()
    site.stop()
    events = check_delivered(failing)
    assert len({event.anonymous_id for event in events}) == 1
    assert all(event.context and event.context.page == "/" for event in events)


def test_the_sdks_come_from_the_public_registry_at_fixed_versions() -> None:
    package = json.loads((SDKS / "package.json").read_text(encoding="utf-8"))
    lock = (SDKS / "package-lock.json").read_text(encoding="utf-8")
    packages = {name: entry for name, entry in json.loads(lock)["packages"].items() if name}
    assert all(re.fullmatch(r"[\d.]+", number) for number in package["dependencies"].values())
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert set(re.findall(r'"resolved": "https?://([^/]+)/', lock)) <= {"registry.npmjs.org"}


def test_the_documented_versions_are_the_tested_ones() -> None:
    tested = json.loads((SDKS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    tested.pop("esbuild")
    tested |= {name: version(name) for name in ("segment-analytics-python", "rudder-sdk-python")}
    documented = dict(
        re.findall(r"^\| `([@\w/-]+)` \| ([\d.]+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert documented == tested
