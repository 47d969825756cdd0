"""What the calls, the page and the dataLayer become: messages, ids and their context."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from recording_collector import RecordingCollector
from tracked_site import DOCUMENT, NEVER, OpenPage, call, queued, snippet, stored

from data.collect.mapping import load_rules
from data.collect.messages import Arrival, Reading, read_message, to_events
from data.times import from_iso

pytestmark = pytest.mark.slow

PHONE = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36"
)
TABLET = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile/15E148 Safari/604.1"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15"
FULL_REFERRER = "<meta name='referrer' content='unsafe-url'>"
TALL = "<div style='height: 4000px'>"


def messages(page: Page) -> list[dict[str, Any]]:
    """What waits in the queue, oldest first."""
    return queued(page)


def stop_clock(page: Page) -> None:
    """From now on, the page's time passes only when a test lets it."""
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 1)


def types_of(message: dict[str, Any], strict: bool = True) -> list[str]:
    """The types of the events that the collector makes of a message. `strict`: it refuses properties that it does not use."""
    arrival = Arrival(from_iso(message["timestamp"]))
    reading = Reading(load_rules(), reject_unknown=strict)
    events = to_events(read_message(json.dumps(message).encode(), arrival), arrival, reading)
    return [event.__struct_config__.tag for event in events]


def test_calls_before_the_script_has_loaded_are_made_in_order(
    open_page: OpenPage, site: RecordingCollector, collector: RecordingCollector
) -> None:
    page = open_page()
    options = {"writeKey": "key-1", "endpoint": collector.url, "consent": "required", "flushMs": 50}
    site.pages["/slow"], _, _ = snippet(**options).partition("<script async")
    page.evaluate("localStorage.clear()")
    page.goto(f"{site.url}/slow")
    page.evaluate("""() => {
        window.early = tidegate;
        tidegate.track("before consent");
        tidegate.consent({analytics: true});
        tidegate.identify("user-1");
        tidegate.push(["track", "view", {item_id: "42"}]);
    }""")
    assert not collector.requests
    page.add_script_tag(url="/tracker.js")
    page.add_script_tag(url="/tracker.js")  # twice, by mistake
    page.evaluate("early.track('click', {item_id: '42'})")
    page.evaluate("early.push(['track', 'share', {item_id: '42'}])")
    collector.wait(lambda: len(collector.accepted) == 5)

    assert [message.get("event", message["type"]) for message in collector.sent] == [
        "page", "identify", "view", "click", "share",
    ]  # fmt: skip


def test_calls_before_init_wait_for_it(open_page: OpenPage) -> None:
    page = open_page(flushMs=NEVER, head="<script>tidegate = [['track', 'first'], ['track', 'second']]</script>")

    assert [message["event"] for message in messages(page)] == ["first", "second"]


def test_the_snippet_has_every_method(open_page: OpenPage) -> None:
    html, _, _ = snippet().partition("tidegate.init")
    in_snippet = set(re.findall(r'"(\w+)"', html))
    page = open_page()

    methods = page.evaluate("Object.keys(tidegate).filter((name) => typeof tidegate[name] === 'function')")
    assert in_snippet == set(methods) - {"push"}


def test_the_documented_calls_give_the_documented_messages(open_page: OpenPage) -> None:
    code = re.search(r"## Calls\n\n```js\n(.*?)```", DOCUMENT, re.DOTALL)
    assert code is not None
    page = open_page(flushMs=NEVER)
    warnings: list[str] = []
    page.on("console", lambda message: warnings.append(message.text))
    page.evaluate(code[1])

    found = [message.get("event", message["type"]) for message in messages(page)]
    assert found == ["view", "click", "purchase", "search", *["impression"] * 3, "identify", "group", "alias", "page"]
    assert not warnings
    assert [types_of(message) for message in messages(page)] == [[name] for name in found]


def test_a_call_never_breaks_the_page(open_page: OpenPage) -> None:
    page = open_page(flushMs=NEVER)
    page.evaluate("""() => {
        const circle = {}; circle.self = circle;
        tidegate.track("view", circle);
        tidegate.impression(null);
        tidegate.push(["no such call"]);
        tidegate.track("click", {item_id: "42"});
    }""")

    assert [message["event"] for message in messages(page)] == ["click"]


# --- who


def test_identify_ties_the_browser_to_the_person(open_page: OpenPage, collector: RecordingCollector) -> None:
    page = open_page(flushMs=NEVER)
    call(page, "track", "before")
    call(page, "identify", 17, {"plan": "basic"})
    page = open_page("/next", page=page, flushMs=NEVER)
    call(page, "track", "after")
    page.close()
    collector.wait(lambda: len(collector.delivered) == 3)

    before, identify, after = collector.delivered
    assert "userId" not in before
    assert identify["type"] == "identify"
    assert identify["traits"] == {"plan": "basic"}
    assert identify["userId"] == after["userId"] == "17"
    assert before["anonymousId"] == identify["anonymousId"] == after["anonymousId"]
    assert before["context"]["sessionId"] == after["context"]["sessionId"]


@pytest.mark.parametrize("how", ["reset", "another user"])
def test_another_person_gets_another_anonymous_id(how: str, open_page: OpenPage) -> None:
    page = open_page(flushMs=NEVER)
    call(page, "identify", "user-1")
    if how == "reset":
        call(page, "reset")
    call(page, "identify", "user-2")
    call(page, "identify", "user-2")

    first, second, third = messages(page)
    assert (second["userId"], third["userId"]) == ("user-2", "user-2")
    assert first["anonymousId"] != second["anonymousId"] == third["anonymousId"]
    assert first["context"]["sessionId"] != second["context"]["sessionId"]


def test_reset_forgets_the_user(open_page: OpenPage) -> None:
    page = open_page(flushMs=NEVER)
    call(page, "identify", "user-1")
    call(page, "reset")
    call(page, "track", "view", {"item_id": "42"})

    assert "userId" not in messages(page)[1]


def test_traits_without_an_id_are_of_whoever_this_is(open_page: OpenPage) -> None:
    page = open_page(flushMs=NEVER)
    call(page, "identify", None, {"plan": "basic"})

    [message] = messages(page)
    assert message["traits"] == {"plan": "basic"}
    assert "userId" not in message


def test_a_session_ends_after_half_an_hour_and_the_browsers_id_after_thirteen_months(
    open_page: OpenPage, profile: BrowserContext
) -> None:
    page = profile.new_page()
    page.clock.install()
    open_page(page=page)
    profile.set_offline(True)
    for minutes in (0, 29, 29, 31, 400 * 24 * 60):
        page.clock.fast_forward(minutes * 60_000)
        call(page, "track", "view", {"item_id": "42"})

    sessions = [message["context"]["sessionId"] for message in messages(page)]
    browsers = [message["anonymousId"] for message in messages(page)]
    assert sessions[0] == sessions[1] == sessions[2] != sessions[3]
    assert browsers[0] == browsers[3] != browsers[4]


def test_group_and_alias(open_page: OpenPage) -> None:
    page = open_page(flushMs=NEVER)
    call(page, "group", "household-5", {"size": 3})
    call(page, "alias", "user-1")

    group, alias = messages(page)
    assert (group["type"], group["groupId"], group["traits"]) == ("group", "household-5", {"size": 3})
    assert (alias["type"], alias["userId"], alias["previousId"]) == ("alias", "user-1", group["anonymousId"])


# --- what


def test_impression_is_an_event_per_item_with_position_and_request(open_page: OpenPage) -> None:
    page = open_page(flushMs=NEVER)
    call(page, "impression", ["42", 7, {"item_id": "9", "position": 30}], {"requestId": "r-1"})

    assert {message["event"] for message in messages(page)} == {"impression"}
    assert [message["properties"] for message in messages(page)] == [
        {"item_id": "42", "position": 1, "request_id": "r-1"},
        {"item_id": "7", "position": 2, "request_id": "r-1"},
        {"item_id": "9", "position": 30, "request_id": "r-1"},
    ]


def test_e_commerce_events_of_the_data_layer_are_forwarded(open_page: OpenPage) -> None:
    before = """<script>
        window.dataLayer = [{event: "view_item", ecommerce: {currency: "EUR", items: [{item_id: "42"}]}}];
        function gtag() { dataLayer.push(arguments) }
    </script>"""
    page = open_page(flushMs=NEVER, dataLayer=True, head=before)
    page.evaluate("""() => {
        dataLayer.push({event: "gtm.js"}, {event: "consent"}, {ecommerce: null}, null, "text");
        gtag("js", new Date());
        gtag("event", "purchase", {transaction_id: "A-1", items: [{item_id: "42", price: 9.5}, {item_id: "7"}]});
        gtag("event", "login", {method: "mail"});
        dataLayer.push({event: "add_to_cart", ecommerce: {items: [{item_id: "7"}]}});
    }""")

    assert [(message["event"], message["properties"]) for message in messages(page)] == [
        ("view_item", {"currency": "EUR", "items": [{"item_id": "42"}]}),
        ("purchase", {"transaction_id": "A-1", "items": [{"item_id": "42", "price": 9.5}, {"item_id": "7"}]}),
        ("add_to_cart", {"items": [{"item_id": "7"}]}),
    ]
    types = [types_of(message, strict=False) for message in messages(page)]
    assert types == [["view"], ["purchase", "purchase"], ["add"]]
    assert page.evaluate("dataLayer.length") == 10


def test_the_data_layer_is_left_alone_unless_asked(open_page: OpenPage) -> None:
    page = open_page(flushMs=NEVER, head="<script>window.dataLayer = []</script>")
    page.evaluate("dataLayer.push({event: 'view_item', ecommerce: {items: [{item_id: '42'}]}})")

    assert not messages(page)


# --- pages


def test_a_page_is_reported_at_the_start_and_when_the_path_changes(open_page: OpenPage) -> None:
    page = open_page("/a?secret=1#part", pages=True, flushMs=NEVER)
    page.evaluate("""async () => {
        history.pushState({}, "", "/b?secret=2");
        history.replaceState({}, "", "/b?secret=3");
        history.replaceState({}, "", "/c");
        history.pushState({}, "", "#part");
        const returned = new Promise((resolve) => addEventListener("popstate", resolve));
        history.go(-2);
        await returned;
    }""")

    assert [(message["type"], message["context"]["page"]["path"]) for message in messages(page)] == [
        ("page", "/a"), ("page", "/b"), ("page", "/c"), ("page", "/a"),
    ]  # fmt: skip
    assert "secret" not in str(messages(page))


def test_a_page_back_from_the_browsers_cache_is_reported_again(
    open_page: OpenPage, collector: RecordingCollector
) -> None:
    page = open_page("/a", pages=True)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    collector.wait(lambda: len(collector.delivered) == 2)

    assert [message["type"] for message in collector.delivered] == ["page", "page"]


def test_a_page_that_is_rendered_ahead_is_reported_when_it_is_shown(open_page: OpenPage) -> None:
    ahead = "window.ahead = true; Object.defineProperty(Document.prototype, 'prerendering', {get: () => window.ahead})"
    page = open_page("/a", pages=True, flushMs=NEVER, setup=ahead)
    call(page, "track", "view", {"item_id": "42"})
    assert not stored(page)

    page.evaluate("window.ahead = false; document.dispatchEvent(new Event('prerenderingchange'))")
    assert [message["type"] for message in messages(page)] == ["page", "track"]


def test_the_context_of_an_event(open_page: OpenPage, browser: Browser, site: RecordingCollector) -> None:
    context = browser.new_context(
        locale="de-AT", timezone_id="Europe/Vienna", viewport={"width": 400, "height": 800},
    )  # fmt: skip
    page = open_page("/from?secret=1", page=context.new_page(), head=FULL_REFERRER, flushMs=NEVER)
    page.evaluate("location.href = '/shop?utm_source=news&utm_campaign=spring&utm_medium=mail&secret=2'")
    page.wait_for_url("**/shop*")
    page.wait_for_function("window.tidegate.isLoaded")
    call(page, "track", "view", {"item_id": "42"})
    [message] = messages(page)
    context.close()

    found = message["context"]
    assert len(found.pop("sessionId")) == 36
    assert found == {
        "library": {"name": "tidegate", "version": "1"},
        "page": {"path": "/shop", "referrer": site.url.removeprefix("http://")},
        "locale": "de-AT",
        "timezone": "Europe/Vienna",
        "screen": {"orientation": "portrait"},
        "device": {"type": "desktop"},
        "campaign": {"source": "news", "name": "spring", "medium": "mail"},
        "consent": {"categoryPreferences": {"analytics": True, "personalization": True, "model_training": True}},
    }


DEVICE = """
    let agent, pointer, isMobile;
    Object.defineProperty(Navigator.prototype, "userAgent", {get: () => agent});
    Object.defineProperty(Navigator.prototype, "userAgentData", {get: () => isMobile && {mobile: true}});
    const match = matchMedia;
    matchMedia = (query) => query.includes("pointer") ? {matches: query === `(pointer:${pointer})`} : match(query);
"""


def test_the_class_of_the_device(open_page: OpenPage) -> None:
    page = open_page(setup=DEVICE, flushMs=NEVER)
    page.evaluate(
        """(devices) => devices.forEach((device) => {
            [agent, pointer, isMobile] = device;
            tidegate.track("view", {item_id: "42"});
        })""",
        [
            [PHONE, "coarse", False],
            [IPHONE, "coarse", False],
            ["a browser that says no more", "coarse", True],
            [TABLET, "coarse", False],
            [MAC, "coarse", False],  # an iPad
            [MAC, "fine", False],
        ],
    )

    found = [message["context"]["device"]["type"] for message in messages(page)]
    assert found == ["phone", "phone", "phone", "tablet", "tablet", "desktop"]


def test_the_kind_of_the_network(open_page: OpenPage) -> None:
    setup = "let kind; Object.defineProperty(Navigator.prototype, 'connection', {get: () => kind && {type: kind}})"
    page = open_page(setup=setup, flushMs=NEVER)
    page.evaluate("""() => ["wifi", "cellular", "ethernet", undefined].forEach((each) => {
        kind = each;
        tidegate.track("view", {item_id: "42"});
    })""")

    found = [message["context"].get("network") for message in messages(page)]
    assert found == [{"wifi": True}, {"cellular": True}, None, None]


# --- the item of a page


def scroll(page: Page, share: float) -> None:
    """Scroll until this share of the page was seen."""
    page.evaluate(
        """(share) => new Promise((resolve) => {
            addEventListener("scroll", () => setTimeout(resolve), {once: true});
            scrollTo(0, share * document.documentElement.scrollHeight - innerHeight);
        })""",
        share,
    )


@pytest.mark.parametrize("how", ["call", "attribute"])
def test_how_far_an_items_page_is_scrolled(how: str, open_page: OpenPage) -> None:
    attribute = "data-tidegate-item='42'" if how == "attribute" else ""
    page = open_page(flushMs=NEVER, body=f"<main {attribute}>{TALL}</main>")
    if how == "call":
        call(page, "item", "42")
    else:
        page.wait_for_timeout(1_100)  # a script that loads early finds the element at its next look
    for share in (0.3, 0.4, 0.2, 0.8, 1):
        scroll(page, share)

    assert [types_of(message) for message in messages(page)] == [["scroll"]] * 3
    assert [message["properties"] for message in messages(page)] == [
        {"item_id": "42", "depth": 0.25}, {"item_id": "42", "depth": 0.75}, {"item_id": "42", "depth": 1},
    ]  # fmt: skip


def test_a_page_without_an_item_has_neither_scroll_nor_dwell(open_page: OpenPage, profile: BrowserContext) -> None:
    page = profile.new_page()
    page.clock.install()
    page = open_page(page=page, flushMs=NEVER, body=TALL)
    scroll(page, 1)
    page.clock.run_for(5_000)
    page.evaluate("history.pushState({}, '', '/next')")

    assert not messages(page)


def test_dwell_counts_the_seconds_in_which_the_person_is_active(open_page: OpenPage, profile: BrowserContext) -> None:
    page = profile.new_page()
    page.clock.install()
    page = open_page("/item", page=page, flushMs=NEVER)
    stop_clock(page)
    call(page, "item", "42", {"requestId": "r-1"})
    page.clock.run_for(20_000)
    page.mouse.move(9, 9)
    page.clock.run_for(300_000)  # 30 seconds of it until the person counts as idle
    page.evaluate("history.pushState({}, '', '/next')")

    [message] = messages(page)
    assert message["event"] == "dwell"
    assert message["context"]["page"]["path"] == "/item"
    assert types_of(message) == ["dwell"]
    seconds = message["properties"].pop("seconds")
    assert message["properties"] == {"item_id": "42", "request_id": "r-1"}
    assert seconds == pytest.approx(50, abs=1)


def test_dwell_is_reported_when_the_item_changes_and_when_the_page_closes(
    open_page: OpenPage, profile: BrowserContext, collector: RecordingCollector
) -> None:
    page = profile.new_page()
    page.clock.install()
    page = open_page(page=page, flushMs=NEVER, body="<main></main>")
    stop_clock(page)
    for item_id, seconds in (("1", 4), ("2", 9)):
        page.evaluate("(id) => { document.querySelector('main').dataset.tidegateItem = id }", item_id)
        page.clock.run_for(1_000)  # until the tracker looks again
        page.clock.run_for(seconds * 1_000)
    page.close()
    collector.wait(lambda: len(collector.events("dwell")) == 2)

    first, second = (message["properties"] for message in collector.events("dwell"))
    assert (first["item_id"], second["item_id"]) == ("1", "2")
    assert first["seconds"] == pytest.approx(4, abs=1.1)
    assert second["seconds"] == pytest.approx(9, abs=1.1)


def test_time_before_consent_does_not_count(open_page: OpenPage, profile: BrowserContext) -> None:
    page = profile.new_page()
    page.clock.install()
    page = open_page(page=page, consent="required", flushMs=NEVER)
    stop_clock(page)
    call(page, "item", "42")
    page.clock.run_for(10_000)
    call(page, "consent", {"analytics": True})
    page.clock.run_for(3_000)
    page.evaluate("history.pushState({}, '', '/next')")

    [message] = messages(page)
    assert message["properties"]["seconds"] == pytest.approx(3, abs=1)
