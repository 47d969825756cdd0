"""Search the rejected events of the event collector, show them as a page, and replay them after a fix."""

from __future__ import annotations

import argparse
import sys
import time
from html import escape
from pathlib import Path

from config.command import UserError, exits_cleanly
from config.paths import REJECTED_PAGE
from data import pages
from data.collect import settings
from data.collect.rejected_store import FILE, Progress, RejectedEvent, RejectedStore, Search
from data.columns import MICROSECONDS
from data.files import write_text
from data.times import from_iso, now_iso, now_us, to_iso

LISTED, PAGE_EVENTS = 50, 1_000
BODY_CHARACTERS = 2_000  # of a body in the page
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 10.0  # without progress, after which the collector does not seem to run
STYLE = (
    "body{max-width:80rem}td{overflow-wrap:break-word}#events td:nth-child(-n+5){white-space:nowrap}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere}"
)
FILTER = (
    """<p><input id="text" size="40" placeholder="Search in these events" autofocus> <span id="found"></span></p>"""
)
SCRIPT = """<script>
const rows = [...document.querySelectorAll("#events tr")].slice(1)
const filter = () => {
  const text = document.getElementById("text").value.toLowerCase()
  for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(text)
  document.getElementById("found").textContent = rows.filter(row => !row.hidden).length + " events"
}
document.getElementById("text").addEventListener("input", filter)
filter()
</script>"""


def format_line(event: RejectedEvent) -> str:
    """An event in one line."""
    parts = [f"#{event.number}", to_iso(event.known_us), event.source, event.reason, event.field or "-", event.message]
    return "  ".join([*parts, f"({state})"] if (state := state_of(event)) else parts)


def state_of(event: RejectedEvent) -> str:
    """Whether it was replayed, or cannot be; "" if it can be."""
    if event.replayed_us is not None:
        return f"replayed {to_iso(event.replayed_us)}"
    return "" if event.is_whole else f"cannot be replayed: {event.size} bytes came, only the first were kept"


def format_event(event: RejectedEvent) -> str:
    """All that is known of an event, and its body."""
    lines = [
        format_line(event),
        f"message id: {event.message_id}",
        f"sent at: {'unknown' if event.sent_us is None else to_iso(event.sent_us)}, by the sender's clock",
        f"purposes of its write key: {event.purposes or 'none'}",
        event.body.decode(errors="replace"),
    ]
    return "\n".join(lines)


def build_page(store: RejectedStore) -> str:
    """The page: what is wrong and how often, with an example of each; and the newest events, to search in."""
    newest = store.search(limit=PAGE_EVENTS)
    counts = store.counts()
    causes = []
    for reason, field, count, number in counts:
        example = store.find(number)
        text = "" if example is None else f"#{number}: {example.message}"
        causes.append({"events": f"{count:,}", "reason": reason, "field": field or "", "example": text})
    rows = [
        {
            "": f"#{event.number}",
            "when": to_iso(event.known_us // MICROSECONDS * MICROSECONDS),
            "source": event.source,
            "reason": event.reason,
            "field": event.field or "",
            "what is wrong": event.message,
            "event": _body(event),
            "state": state_of(event),
        }
        for event in newest
    ]
    total = sum(count for _, _, count, _ in counts)
    body = [
        "<h1>Rejected events</h1>",
        f"<p>As of {now_iso()}: {total:,} events are rejected and were not replayed. "
        "Fix the sender, the mapping or the schema, then run ",
        pages.markup("`python -m data.collect.rejected replay`."),
        f"<h2>Causes</h2>{pages.table(causes) or '<p>None.</p>'}",
        f"<h2>Newest events</h2>{FILTER}<div id='events'>{pages.table(rows)}</div>{SCRIPT}" if rows else "",
    ]
    return pages.page("Rejected events", body, STYLE)


def _body(event: RejectedEvent) -> pages.Html:
    text = event.body.decode(errors="replace")
    cut = text[:BODY_CHARACTERS] + (" …" if len(text) > BODY_CHARACTERS else "")
    return pages.Html(f"<details><summary>{escape(event.message_id)}</summary><pre>{escape(cut)}</pre></details>")


def replay(store: RejectedStore, search: Search, patience: float = PATIENCE_SECONDS) -> tuple[int, int]:
    """Ask the running collector to replay events, and wait; (accepted, rejected again).

    Raises:
        UserError: it makes no progress. It goes on by itself once it runs.
    """
    requested_us = now_us()
    count = store.request_replay(search, requested_us)
    progress, deadline = Progress(0, count), time.monotonic() + patience
    while progress.waiting:
        time.sleep(POLL_SECONDS)
        new = store.progress(requested_us)
        if new != progress:
            deadline = time.monotonic() + patience
        elif time.monotonic() > deadline:
            raise UserError(
                f"events that still wait: {new.waiting}; the collector has replayed none for {patience:g} s. Does it run, and "
                "is there space on its disk? It replays them as soon as it can"
            )
        progress = new
    return progress.accepted, count - progress.accepted


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.collect.rejected", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="list rejected events, newest first")
    listing.add_argument("--limit", type=int, default=LISTED, help="default: %(default)s")
    show = actions.add_parser("show", help="show one event")
    show.add_argument("number", type=int, help="as `list` shows it")
    actions.add_parser("page", help=f"write {REJECTED_PAGE}")
    replaying = actions.add_parser("replay", help="have the running collector read events again, by its current rules")
    for action in (listing, replaying):
        action.add_argument("--reason", help="schema, size, time, conflict ...")
        action.add_argument("--source", help="the source of the write key")
        action.add_argument("--text", help="that the event or its error message holds")
        action.add_argument("--since", type=_moment, metavar="TIME", help="when it came, such as 2026-11-30T12:00")
    arguments = parser.parse_args(argv)
    home: Path = settings.load().home
    if not (home / FILE).exists():
        print(f"{home / FILE} does not exist: no event was rejected")
        return 0
    store = RejectedStore(home)
    if arguments.action == "show":
        event = store.find(arguments.number)
        if event is None:
            raise UserError(f"there is no rejected event {arguments.number}")
        print(format_event(event))
    elif arguments.action == "page":
        REJECTED_PAGE.parent.mkdir(parents=True, exist_ok=True)
        write_text(REJECTED_PAGE, build_page(store))
        print(f"-> {REJECTED_PAGE}")
    else:
        search = Search(arguments.reason, arguments.source, arguments.text, arguments.since)
        if arguments.action == "list":
            print("\n".join(map(format_line, store.search(search, arguments.limit))) or "no rejected events")
        else:
            accepted, rejected = replay(store, search)
            print(f"{accepted} events accepted, {rejected} rejected again")
    return 0


def _moment(text: str) -> int:
    try:
        return from_iso(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO 8601 time") from None


if __name__ == "__main__":
    sys.exit(main())
