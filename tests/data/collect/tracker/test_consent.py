"""Nothing is stored or sent before a person allows it; what they refuse later goes; Global Privacy Control is obeyed."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page
from recording_collector import RecordingCollector
from tracked_site import EVERYTHING, NEVER, OpenPage, call, queued, stored

pytestmark = pytest.mark.slow

GLOBAL_PRIVACY_CONTROL = "Object.defineProperty(navigator, 'globalPrivacyControl', {get: () => true})"


def preferences(message: dict[str, Any]) -> dict[str, bool]:
    return message["context"]["consent"]["categoryPreferences"]


def act(page: Page) -> None:
    """What a person and a site do in a visit."""
    page.evaluate("""() => {
        tidegate.page("Home"); tidegate.track("view", {item_id: "42"}); tidegate.identify("user-1", {plan: "basic"});
        tidegate.group("group-1"); tidegate.alias("user-1", "old"); tidegate.impression(["1", "2"]); tidegate.item("42");
        dataLayer.push({event: "view_item", ecommerce: {items: [{item_id: "42"}]}});
        history.pushState({}, "", "/next"); tidegate.reset(); scrollTo(0, 9999);
    }""")
    page.mouse.move(5, 5)


def test_before_consent_nothing_is_stored_and_nothing_is_sent(
    open_page: OpenPage, profile: BrowserContext, collector: RecordingCollector
) -> None:
    options = {"consent": "required", "pages": True, "dataLayer": True, "body": "<div style='height: 9000px'>"}
    page = open_page(page=profile.new_page(), **options)
    act(page)
    page.wait_for_timeout(200)
    open_page("/next", page=page, **options)
    page.wait_for_timeout(200)

    assert not collector.requests
    assert profile.storage_state(indexed_db=True) == {"cookies": [], "origins": []}
    assert page.evaluate("sessionStorage.length") == 0


def test_with_consent_the_page_is_reported_and_what_was_before_is_not(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    page = open_page("/start?q=1", consent="required", pages=True)
    call(page, "track", "view", {"item_id": "before"})
    call(page, "consent", {"analytics": True, "personalization": True})
    call(page, "track", "view", {"item_id": "after"})
    collector.wait(lambda: len(collector.accepted) == 2)

    first, second = collector.sent
    assert (first["type"], first["context"]["page"]["path"]) == ("page", "/start")
    assert second["properties"] == {"item_id": "after"}
    assert preferences(first) == {"analytics": True, "personalization": True, "model_training": False}


def test_consent_holds_on_the_next_page_and_in_other_tabs(open_page: OpenPage, collector: RecordingCollector) -> None:
    page, other = open_page(consent="required"), open_page(consent="required", new_tab=True)
    call(page, "consent", {"analytics": True})
    next_page = open_page("/next", consent="required", page=page)
    call(next_page, "track", "next page")
    other.wait_for_function("localStorage['tidegate.consent']")
    call(other, "track", "other tab")
    collector.wait(lambda: len(collector.accepted) == 2)


def test_only_a_yes_counts(open_page: OpenPage, collector: RecordingCollector) -> None:
    page = open_page(consent="required")
    for answers in ({}, {"analytics": False}, {"analytics": "yes", "personalization": 1}):
        call(page, "consent", answers)
        call(page, "track", "view", {"item_id": "42"})
        assert stored(page) == {}
    page.wait_for_timeout(150)

    assert not collector.requests


@pytest.mark.parametrize("consent", ["required", "granted"])
def test_withdrawal_drops_the_queue_and_removes_all_that_is_stored(
    consent: str, open_page: OpenPage, collector: RecordingCollector
) -> None:
    page = open_page(consent=consent, flushMs=NEVER)
    other = open_page(consent=consent, flushMs=NEVER, new_tab=True)
    call(page, "consent", EVERYTHING)
    call(page, "identify", "user-1")
    call(page, "track", "view", {"item_id": "42"})
    other.wait_for_function("localStorage['tidegate.consent']")
    call(other, "track", "click", {"item_id": "42"})
    page.wait_for_function("Object.keys(localStorage).filter((key) => key.startsWith('tidegate.q')).length === 3")

    call(page, "consent", {"analytics": False, "personalization": False, "model_training": False})
    other.wait_for_function("localStorage.length === 0")
    other.wait_for_timeout(50)  # until the tab has seen why
    for tab in (page, other):
        call(tab, "track", "later", {"item_id": "42"})
        call(tab, "identify", "user-1")
        assert stored(tab) == {}
    page.close()
    other.close()
    time.sleep(0.2)

    assert not collector.requests


def test_withdrawal_cancels_what_is_under_way_and_leaves_nothing(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    collector.delay = 2
    page = open_page(consent="required", flushMs=1)
    call(page, "consent", EVERYTHING)
    call(page, "track", "view", {"item_id": "42"})
    collector.wait(lambda: collector.requests)
    with page.expect_event("requestfailed", timeout=1_500):
        call(page, "consent", {})
    page.wait_for_timeout(100)

    assert stored(page) == {}
    assert len(collector.requests) == 1


def test_withdrawal_without_storage_drops_the_queue_in_memory(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    blocked = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('blocked') }})"
    page = open_page(flushMs=NEVER, setup=blocked)
    call(page, "track", "view", {"item_id": "42"})
    call(page, "consent", {})
    page.close()
    time.sleep(0.2)

    assert not collector.requests


def test_a_refused_purpose_leaves_the_queued_events(open_page: OpenPage, collector: RecordingCollector) -> None:
    page = open_page(consent="required", flushMs=NEVER)
    call(page, "consent", {"personalization": True})
    call(page, "track", "for personalization only")
    call(page, "consent", {"analytics": True, "personalization": True})
    call(page, "track", "for both")
    call(page, "consent", {"analytics": True, "model_training": True})
    call(page, "track", "for the others")

    assert [(message["event"], preferences(message)) for message in queued(page)] == [
        ("for both", {"analytics": True, "personalization": False, "model_training": False}),
        ("for the others", {"analytics": True, "personalization": False, "model_training": True}),
    ]


def test_global_privacy_control_outranks_the_site(open_page: OpenPage, collector: RecordingCollector) -> None:
    page = open_page(setup=GLOBAL_PRIVACY_CONTROL)
    call(page, "track", "by default")
    call(page, "consent", EVERYTHING)
    call(page, "track", "after consent")
    collector.wait(lambda: len(collector.accepted) == 2)

    only_analytics = {"analytics": True, "personalization": False, "model_training": False}
    assert [preferences(message) for message in collector.sent] == [only_analytics] * 2


def test_global_privacy_control_leaves_nothing_where_analytics_is_refused(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    page = open_page(consent="required", setup=GLOBAL_PRIVACY_CONTROL)
    call(page, "consent", {"personalization": True, "model_training": True})
    call(page, "track", "view", {"item_id": "42"})
    page.wait_for_timeout(150)

    assert not collector.requests
    assert stored(page) == {}


def test_damaged_consent_is_no_consent(open_page: OpenPage, collector: RecordingCollector) -> None:
    page = open_page(consent="required", setup="localStorage.setItem('tidegate.consent', '{\"analytics\":tr')")
    call(page, "track", "view", {"item_id": "42"})
    page.wait_for_timeout(150)

    assert not collector.requests
    assert list(stored(page)) == ["tidegate.consent"]


def test_a_site_that_has_asked_keeps_its_consent_when_it_clears_storage(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    page = open_page(consent="granted")
    page.evaluate("localStorage.clear()")
    call(page, "track", "view", {"item_id": "42"})
    collector.wait(lambda: collector.events("view"))
