"""What an answer read of its user, read again: from the data set's events, or from the online store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from config import params
from data.times import from_iso, to_iso
from experiments.lineage import offline_features
from experiments.lineage.offline_features import Offline
from experiments.lineage.report import Part
from features.online import profile
from features.online.connect import connect_to_read, settings
from features.online.errors import StoreError
from features.online.profile import LATEST_US, Event
from features.online.store import Reading
from serving.edge.pseudonym import PUBLIC, hidden, pseudonym
from serving.user_histories import reading
from serving.worker import response
from serving.worker.request import Request
from serving.worker.users import User, user_from_reading

READ_BY = ("history", "traits")  # the parts of serving.worker.response that are of the user


@dataclass(frozen=True)
class Again:
    """One source's account of what a model could read of a user at a moment."""

    source: str
    person: User
    events: list[Event]
    differs: list[str]  # parts that are not what the answer read, as far as the log tells


def owner(line: Mapping[str, Any], secret: bytes | None, stated: str | None) -> str | None:
    """The user behind a line's pseudonym; None where nobody that is known here has it.

    Args:
        secret: where it is None, whoever is stated is believed, and nobody can be found.
        stated: the user that is thought to be it; None looks through everybody in the data set.
    """
    if secret is None:
        return stated
    known = [stated] if stated is not None else offline_features.users()
    return next((user for user in known if pseudonym(secret, user) == line["user"]), None)


def why_nobody(secret: bytes | None, stated: str | None) -> str:
    """Why `owner` found nobody."""
    if secret is None:
        return "the edge's secret is not here (user.key beside the served log, or TIDEGATE_EDGE_USER_SECRET)"
    if stated is not None:
        return f"the pseudonym is not that of {stated!r}"
    return f"the pseudonym is of none of the {len(offline_features.users()):,} users of the data set here; --user names another"


def best(
    line: Mapping[str, Any],
    user: str,
    repeats: str,
    secret: bytes | None,
    chosen: params.Params,
    context: Mapping[str, object] | None = None,
) -> Again | None:
    """The first source that gives what the answer read; where none does, the first of all; None where there is none.

    Args:
        repeats: as the artifact's config has it.
        context: what the request stated; None where that is not known.
    """
    time_us = from_iso(line["time"])
    request = Request(
        user, [], has_history=False, k=line["k"], time_us=time_us, context=dict(context or {}), request_id=None
    )
    compared = READ_BY if context is not None or "context" not in line.get("unlogged", ()) else READ_BY[:1]
    found: list[Again] = []
    for source, held in _sources(line, user, time_us, chosen):
        person = user_from_reading(held, time_us, repeats)
        events = profile.history(held.profile, time_us, repeats) if held.profile and person.items else []
        differs = changed(line, response.input_digests(request, person, ""), secret, compared)
        found.append(Again(source, person, events, differs))
        if not differs:
            return found[-1]
    return nothing(line, secret) or (found[0] if found else None)


def nothing(line: Mapping[str, Any], secret: bytes | None) -> Again | None:
    """The account of a worker that had no word of the user, as of one whom the store does not know, or did not give;
    None where the answer's digest tells otherwise, or nothing."""
    person = User(reason=line["reason"].partition("; popular in the segment ")[0])
    empty = response.input_digests(Request(None, [], False, 1, 0, {}, None), person, "")
    if secret is None or not line.get("inputs") or changed(line, empty, secret, ("history",)):
        return None
    return Again("nothing: the worker had no word of the user", person, [], [])


def changed(line: Mapping[str, Any], read: dict[str, str], secret: bytes | None, parts: tuple[str, ...]) -> list[str]:
    """Which parts of `serving.worker.response` are not those that the log states, as far as it states them and the secret that
    hides those of a person is here."""
    stated = line.get("inputs") or {}
    own = {name: read[name] for name in read if name == PUBLIC} if secret is None else hidden(secret, read) or {}
    return [part for part in parts if part in own and own[part] != stated.get(part, own[part])]


def events_part(line: Mapping[str, Any], again: Again) -> Part:
    """The events that an answer rests on, newest first."""
    rows = [
        {"event_id": event.event_id, "event_time": to_iso(event.time_us), "item_id": event.item_id,
         "event_type": event.event_type, "known_time": to_iso(event.known_us)}
        for event in again.events[::-1]
    ]  # fmt: skip
    checked = not again.differs and line.get("inputs") is not None
    facts = {"read from": again.source, "events": len(rows), "traits": dict(again.person.traits)}
    facts |= {"as the answer read them": "yes, by their digest" if checked else "not shown"}
    note = f"what lies here is not what the answer read: {' and '.join(again.differs)} differ" if again.differs else ""
    return Part("events", facts, rows, note or again.person.reason)


def _sources(line: Mapping[str, Any], user: str, time_us: int, chosen: params.Params) -> Iterator[tuple[str, Reading]]:
    known = Offline.of([user], chosen.online)
    if known is not None:
        for source, until_us in _moments(line).items():
            yield source, reading(known.profile(user, until_us), time_us, known.policy)
    try:
        with closing(connect_to_read(chosen.dataset, settings())) as store:
            yield "the online store", store.read([user], [time_us])[0]
    except StoreError:
        return


def _moments(line: Mapping[str, Any]) -> dict[str, int]:
    """All of the data set, and what of it was known when the store had last learned of the user."""
    moments = {str(offline_features.EVENTS): LATEST_US}
    if line.get("feature_time"):
        moments[f"{offline_features.EVENTS}, known by {line['feature_time']}"] = from_iso(line["feature_time"]) + 1
    return moments
