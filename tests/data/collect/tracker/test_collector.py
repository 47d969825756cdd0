"""The tracker and the event collector together: each event is in the log once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from collector_app import RunningCollector
from injected_errors import InjectedErrors
from recording_collector import RecordingCollector, wait_for
from tracked_site import NEVER, SETTLED, OpenPage, call, queued

from data.collect.schema import Identify, Impression, Page, View

pytestmark = pytest.mark.slow

Start = Callable[..., RunningCollector]


def test_events_are_stored_once_through_two_failures_and_a_limit(start: Start, open_page: OpenPage) -> None:
    real = start(wrap=InjectedErrors)
    page = open_page("/shop", endpoint=real.url, writeKey=real.key, pages=True)
    call(page, "identify", "ann", {"plan": "basic"})
    call(page, "impression", ["1", "2"], {"requestId": "r-1"})
    for number in range(20):
        call(page, "track", "view", {"item_id": f"item-{number}"})
    wait_for(lambda: len(real.logged()) == 24)
    page.wait_for_function(SETTLED)

    events = real.events()
    assert [type(event) for event in events] == [Page, Identify, Impression, Impression, *[View] * 20]
    assert {event.anonymous_id for event in events} == {events[0].anonymous_id}
    assert {event.user_id for event in events[1:]} == {"ann"}
    assert events[0].context is not None
    assert (events[0].context.page, events[0].context.device) == ("/shop", "desktop")
    assert events[0].purposes == ("analytics", "personalization", "model_training")
    assert (events[3].item_id, events[3].position, events[3].request_id) == ("2", 2, "r-1")


def test_a_closed_page_and_the_next_one_store_its_events_once(start: Start, open_page: OpenPage) -> None:
    real = start()
    page = open_page(endpoint=real.url, writeKey=real.key, flushMs=NEVER)
    page.evaluate("for (let n = 0; n < 100; n++) tidegate.track('view', {item_id: 'item-' + n, text: 'x'.repeat(500)})")
    ids = sorted(message["messageId"] for message in queued(page))
    page.close()
    page = open_page(endpoint=real.url, writeKey=real.key)
    page.wait_for_function(SETTLED)

    assert sorted(event.event_id for event in real.events()) == ids


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_key_of_a_site_stores_events_of_its_pages_only(
    is_listed: bool, start: Start, open_page: OpenPage, site: RecordingCollector
) -> None:
    real = start()
    key = real.make_key("shop", origins=(site.url if is_listed else "https://shop.example.com",))
    wait_for(lambda: real.client.get(f"/v1/projects/{key}/settings").status_code != 401)  # the collector knows the key
    page = open_page(endpoint=real.url, writeKey=key)
    call(page, "track", "view", {"item_id": "42"})
    page.wait_for_function(SETTLED)

    assert len(real.events()) == is_listed
