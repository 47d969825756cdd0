"""Every event reaches the collector: over failures, without a network, from closed pages, several tabs and full storage."""

from __future__ import annotations

import re
import time
from datetime import datetime

import pytest
from playwright.sync_api import BrowserContext
from recording_collector import Answer, Message, RecordingCollector
from tracked_site import NEVER, SETTLED, OpenPage, call, queued, stored

pytestmark = pytest.mark.slow

FILL_STORAGE = """
    const chunk = "x".repeat(100_000);
    let size = chunk.length;
    for (let n = 0; size >= 1; n++) {
        try { localStorage.setItem("site" + n, chunk.slice(0, size)) } catch { size = Math.floor(size / 2) }
    }
"""
BLOCK_STORAGE = """
    Object.defineProperty(window, "localStorage", {get() { throw new DOMException("blocked", "SecurityError") }})
"""
WITHOUT_LOCKS = "Object.defineProperty(Navigator.prototype, 'locks', {get: () => undefined})"
WITHOUT_KEEPALIVE = "delete Request.prototype.keepalive"
EVENTS_IN_A_ROW = "([count, text]) => { for (let n = 0; n < count; n++) tidegate.track('e' + n, {text}) }"


def names(messages: list[Message]) -> list[str]:
    return sorted(message["event"] for message in messages)


def numbered(count: int) -> list[str]:
    return sorted(f"e{number}" for number in range(count))


def test_events_arrive_in_segments_form_without_a_preflight(open_page: OpenPage, collector: RecordingCollector) -> None:
    page = open_page()
    page.evaluate("""() => {
        tidegate.track("view", {item_id: "42", name: "Ærø ☕ 𝄞"});
        tidegate.track("click", {item_id: "7"});
    }""")
    collector.wait(lambda: len(collector.accepted) == 2)

    [request] = collector.requests  # a preflight would be another
    assert (request.method, request.path) == ("POST", "/v1/b")
    assert request.headers["Content-Type"].partition(";")[0] == "text/plain"
    assert "Cookie" not in request.headers
    assert b'"writeKey":"key-1"' in request.body
    assert re.search(rb'"sentAt":"20[-0-9]{8}T[:.0-9]{12}Z"', request.body)
    first = request.batch[0]
    assert (first["type"], first["event"]) == ("track", "view")
    assert first["properties"] == {"item_id": "42", "name": "Ærø ☕ 𝄞"}
    assert datetime.fromisoformat(first["timestamp"])
    assert len(first["messageId"]) == len(first["anonymousId"]) == 36


@pytest.mark.parametrize(
    "failure",
    [Answer(500), Answer(503), Answer(408), Answer(429), Answer(dropped=True), Answer(body=b"<html>Please log in")],
    ids=["500", "503", "408", "429", "connection dropped", "not the collector"],
)
def test_what_was_not_answered_is_sent_again(
    failure: Answer, open_page: OpenPage, collector: RecordingCollector
) -> None:
    collector.answers.extend([failure, failure])
    page = open_page()
    call(page, "track", "view", {"item_id": "42"})
    collector.wait(lambda: len(collector.requests) == 3)
    page.wait_for_function("!Object.keys(localStorage).some((key) => /\\.(q|retry)/.test(key))")

    assert len({message["messageId"] for message in collector.sent}) == 1
    assert len(collector.accepted) == 1


def test_an_error_of_the_request_is_final(open_page: OpenPage, collector: RecordingCollector) -> None:
    statuses = (400, 401, 403, 413)
    collector.answers.extend(Answer(status) for status in statuses)
    page = open_page()
    for status in statuses:
        call(page, "track", f"refused with {status}")
        page.wait_for_function(SETTLED)
    call(page, "track", "view", {"item_id": "42"})
    collector.wait(lambda: collector.accepted)

    assert [message["event"] for message in collector.sent] == [*(f"refused with {each}" for each in statuses), "view"]


@pytest.mark.parametrize("status", [200, 429, 503])  # clients that read no verdicts see that some are sent again
def test_only_what_the_collector_wants_again_is_sent_again(
    status: int, open_page: OpenPage, collector: RecordingCollector
) -> None:
    # Each event is named after its verdict.
    collector.answers.append(Answer(status, verdict=lambda message: message["event"]))
    page = open_page()
    verdicts = ["accepted", "duplicate", "rejected", "limited", "retry", "a verdict of the future"]
    page.evaluate("(names) => names.forEach((name) => tidegate.track(name))", verdicts)
    collector.wait(lambda: len(collector.requests) == 2)

    first, second = collector.requests
    assert names(first.batch) == sorted(verdicts)
    assert names(second.batch) == ["limited", "retry"]
    page.wait_for_function(SETTLED)


def test_an_answer_without_verdicts_is_final(open_page: OpenPage, collector: RecordingCollector) -> None:
    collector.answers.append(Answer(body=b'{"success": true}'))  # as other servers of Segment's format answer
    page = open_page()
    call(page, "track", "view", {"item_id": "42"})
    collector.wait(lambda: collector.requests)
    page.wait_for_function(SETTLED)


@pytest.mark.parametrize("in_seconds", [True, False])
def test_retry_after_is_obeyed(
    in_seconds: bool, open_page: OpenPage, profile: BrowserContext, collector: RecordingCollector
) -> None:
    when = "120" if in_seconds else time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 121))
    collector.answers.append(Answer(429, {"Retry-After": when}))
    page = profile.new_page()
    page.clock.install()
    open_page(page=page)
    call(page, "track", "view", {"item_id": "42"})
    page.clock.run_for(1_000)
    collector.wait(lambda: collector.requests)
    page.wait_for_function("localStorage['tidegate.retry']")

    call(page, "track", "click", {"item_id": "42"})
    page.clock.run_for(110_000)
    time.sleep(0.1)
    assert len(collector.requests) == 1
    collector.wait(lambda: page.clock.run_for(1_000) or len(collector.requests) == 2)
    assert names(collector.requests[1].batch) == ["click", "view"]


def test_pauses_double_with_jitter(open_page: OpenPage, collector: RecordingCollector) -> None:
    collector.answers.extend([Answer(500)] * 4)
    page = open_page(flushMs=1, retryMs=40)
    page.evaluate("""() => {
        window.pauses = [];
        const write = Storage.prototype.setItem;
        Storage.prototype.setItem = function (key, value) {
            if (key === "tidegate.retry") pauses.push(value.split(" ")[1] - Date.now());
            write.call(this, key, value);
        };
    }""")
    call(page, "track", "view", {"item_id": "42"})
    collector.wait(lambda: collector.accepted)

    pauses = page.evaluate("pauses")
    shares = [pause / (40 * 2**number) for number, pause in enumerate(pauses)]
    assert len(pauses) == 4
    assert all(0.45 <= share <= 1.55 for share in shares), "half to one and a half of 40, 80, 160, 320 ms"
    assert max(shares) - min(shares) > 0.05, "jitter"


def test_events_of_a_time_offline_are_delivered_once(
    open_page: OpenPage, profile: BrowserContext, collector: RecordingCollector
) -> None:
    page = open_page(page=profile.new_page())
    profile.set_offline(True)
    for number in range(3):
        call(page, "track", f"e{number}")
        page.wait_for_timeout(70)
    assert not collector.requests
    assert len(queued(page)) == 3
    assert "tidegate.retry" not in stored(page), "being offline is no failure"

    profile.set_offline(False)
    collector.wait(lambda: len(collector.accepted) == 3)
    assert names(collector.sent) == numbered(3)


def test_events_are_delivered_when_the_collector_is_back(open_page: OpenPage, collector: RecordingCollector) -> None:
    page = open_page()
    collector.stop()
    call(page, "track", "e0")
    page.wait_for_function("localStorage['tidegate.retry']")
    call(page, "track", "e1")
    collector.start()
    collector.wait(lambda: len(collector.accepted) == 2)

    assert names(collector.sent) == numbered(2)


@pytest.mark.parametrize("setup", ["", BLOCK_STORAGE, WITHOUT_KEEPALIVE], ids=["keepalive", "no storage", "beacon"])
def test_a_page_that_closes_delivers_its_events(setup: str, open_page: OpenPage, collector: RecordingCollector) -> None:
    page = open_page(flushMs=NEVER, setup=setup)
    for number in range(5):
        call(page, "track", f"e{number}")
    assert not collector.requests
    page.close()
    collector.wait(lambda: len(collector.accepted) == 5)

    assert names(collector.sent) == numbered(5)
    assert collector.requests[0].headers["Content-Type"].partition(";")[0] == "text/plain"


def test_events_of_a_page_that_closed_in_vain_are_sent_by_the_next(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    page = open_page(flushMs=NEVER)
    for number in range(5):
        call(page, "track", f"e{number}")
    collector.stop()
    page.close()
    collector.start()
    open_page()
    collector.wait(lambda: len(collector.accepted) == 5)

    assert names(collector.sent) == numbered(5)


@pytest.mark.parametrize("text", ["x" * 500, "☕" * 90], ids=["one byte each", "three bytes each"])
def test_a_hundred_kilobytes_at_unload_arrive_by_the_end_of_the_next_page(
    text: str, open_page: OpenPage, collector: RecordingCollector
) -> None:
    page = open_page(flushMs=NEVER)
    page.evaluate(EVENTS_IN_A_ROW, [100, text])
    ids = {message["messageId"] for message in queued(page)}
    size = sum(len(text) for text in stored(page).values())
    assert len(ids) == 100
    assert size > 100_000
    page.goto("about:blank")
    collector.wait(lambda: collector.requests)
    [at_unload] = collector.requests
    assert 50_000 < len(at_unload.body) <= 60_000

    open_page("/next", page=page, flushMs=NEVER)
    collector.wait(lambda: ids == {message["messageId"] for message in collector.accepted})
    page.wait_for_function(SETTLED)
    assert all(len(request.body) <= 60_000 for request in collector.requests)


def test_a_request_under_way_survives_the_page_and_the_rest_stays_below_the_quota(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    collector.delay = 2
    page = open_page(flushMs=1)
    page.evaluate(EVENTS_IN_A_ROW, [100, "x" * 500])
    collector.wait(lambda: collector.requests)
    page.close()
    collector.wait(lambda: len(collector.requests) == 2)

    assert 50_000 < sum(len(request.body) for request in collector.requests) <= 60_000
    assert len({message["messageId"] for message in collector.sent}) == len(collector.sent)


@pytest.mark.parametrize("setup", [FILL_STORAGE, BLOCK_STORAGE], ids=["full", "blocked"])
def test_events_are_delivered_without_storage(setup: str, open_page: OpenPage, collector: RecordingCollector) -> None:
    collector.answers.append(Answer(500))
    page = open_page(setup=setup)
    for number in range(5):
        call(page, "track", f"e{number}")
    collector.wait(lambda: len(collector.accepted) == 5)

    assert len({message["anonymousId"] for message in collector.accepted}) == 1
    assert page.evaluate("(() => { try { return localStorage.length } catch { return 1 } })()") > 0


@pytest.mark.parametrize("setup", ["", WITHOUT_LOCKS], ids=["web locks", "lease"])
def test_two_tabs_deliver_each_event_once(setup: str, open_page: OpenPage, collector: RecordingCollector) -> None:
    tabs = [open_page(setup=setup), open_page(setup=setup, new_tab=True)]
    collector.delay = 0.5
    call(tabs[0], "track", "a0")
    collector.wait(lambda: collector.requests)
    call(tabs[1], "track", "b0")  # while the first tab waits for its answer
    collector.wait(lambda: len(collector.accepted) >= 2)
    collector.delay = 0.05
    for number in range(1, 6):
        for name, tab in zip("ab", tabs, strict=True):
            call(tab, "track", f"{name}{number}")
    collector.wait(lambda: len(collector.delivered) == 12)
    tabs[0].wait_for_timeout(200)

    assert names(collector.sent) == sorted(f"{name}{number}" for name in "ab" for number in range(6))


def test_one_tab_sends_what_another_left(open_page: OpenPage, collector: RecordingCollector) -> None:
    quiet = open_page(flushMs=NEVER)
    call(quiet, "track", "from the first")
    other = open_page(new_tab=True)
    call(other, "track", "from the second")
    collector.wait(lambda: len(collector.accepted) == 2)
    quiet.wait_for_function(SETTLED)


@pytest.mark.parametrize(
    ("count", "text", "kept"), [(520, "", 500), (40, "x" * 20_000, 24)], ids=["500 events", "500 KB"]
)
def test_a_full_queue_drops_the_oldest_and_reports_how_many(
    count: int, text: str, kept: int, open_page: OpenPage, profile: BrowserContext, collector: RecordingCollector
) -> None:
    page = open_page(page=profile.new_page())
    profile.set_offline(True)
    page.evaluate(EVENTS_IN_A_ROW, [count, text])
    assert [message["event"] for message in queued(page)] == [f"e{number}" for number in range(count - kept, count)]

    collector.answers.append(Answer(503))
    profile.set_offline(False)
    collector.wait(lambda: len(collector.accepted) == kept)
    page.wait_for_function("!localStorage['tidegate.dropped']")
    reports = [b'"dropped":%d}' % (count - kept) in request.body for request in collector.requests]
    assert reports == [True, True, *[False] * (len(reports) - 2)], "until a batch that has it was taken"


def test_an_event_that_no_collector_takes_is_dropped_and_counted(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    page = open_page()
    call(page, "track", "view", {"text": "x" * 33_000})
    call(page, "track", "click", {"item_id": "42"})
    collector.wait(lambda: collector.accepted)

    assert names(collector.sent) == ["click"]
    assert b'"dropped":1}' in collector.requests[0].body
