"""Which column of a foreign table is which of ours: by the map, by our name, or by a common alias."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.columns import (
    DESCRIPTION,
    EVENT_COLUMNS,
    EVENT_ID,
    EVENT_TIME,
    EVENT_TYPE,
    GENRES,
    ITEM,
    KNOWN_TIME,
    RELEASE_TIME,
    SESSION,
    TITLE,
    TRAINING_CONSENT,
    USER,
    VALUE,
)
from data.errors import DataError

SIDE_COLUMNS = (TITLE, GENRES, DESCRIPTION, RELEASE_TIME, TRAINING_CONSENT)
REQUIRED = (USER, ITEM, EVENT_TIME)
MOST_SHOWN = 40  # names, and letters of a name, that an error repeats

# Compared in lower case without punctuation, and without RecBole's ":token".
ALIASES = {
    EVENT_ID: "eventid messageid",
    USER: "userid user uid customerid customer visitorid memberid",
    ITEM: "itemid item iid movieid productid trackid articleid bookid songid asin sku",
    EVENT_TIME: "eventtime timestamp time ts datetime date eventtimestamp unixtimestamp ratingtimestamp",
    KNOWN_TIME: "knowntime receivedat ingestedat",
    EVENT_TYPE: "eventtype event action type behavior behaviour",
    VALUE: "value rating score stars",
    SESSION: "sessionid session",
    TITLE: "title movietitle name itemname productname",
    GENRES: "genres genre categories category",
    DESCRIPTION: "description summary overview abstract",
    RELEASE_TIME: "releasetime releasedate publishedat published",
    TRAINING_CONSENT: "consenttraining trainingconsent",
}


def check_map(mapping: Mapping[str, str], context: Sequence[str]) -> None:
    """Refuse a map that names a column that is not ours."""
    ours = (*EVENT_COLUMNS, *SIDE_COLUMNS, *context)
    for name in mapping:
        if name not in ours:
            raise DataError(f"ingest.columns.{name} is none of our columns; they are {', '.join(ours)}")


def resolve(found: Sequence[str], wanted: Sequence[str], mapping: Mapping[str, str], path: Path) -> dict[str, str]:
    """Our names -> the table's, for those of `wanted` that it holds. What is mapped must be there."""
    for ours in wanted:
        if ours in mapping and mapping[ours] not in found:
            raise DataError(f"{path}: ingest.columns.{ours} is {mapping[ours]!r}; the file holds {_list(found)}")
    taken = {mapping[ours] for ours in wanted if ours in mapping}
    names = {ours: mapping.get(ours) or _guess(ours, found, path, taken) for ours in wanted}
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def require(names: Mapping[str, str], needed: Sequence[str], found: Sequence[str], path: Path) -> None:
    """Refuse a table without a column that it must have; says what is there and how to map it."""
    for ours in needed:
        if ours not in names:
            raise DataError(
                f"{path}: no column {ours}; it holds {_list(found)}; say which one it is in params.yaml: "
                f"ingest.columns: {{{ours}: ...}}"
            )


def _guess(ours: str, found: Sequence[str], path: Path, taken: set[str]) -> str | None:
    if ours in found:
        return ours
    aliases = ALIASES.get(ours, "").split()
    matches = [name for name in found if _plain(name) in aliases and name not in taken]
    if len(matches) > 1:
        choice = " or ".join(repr(name) for name in matches)
        raise DataError(f"{path}: {ours} may be {choice}; say which in params.yaml: ingest.columns.{ours}")
    return matches[0] if matches else None


def _list(names: Sequence[str]) -> str:
    shown = [repr(name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}...") for name in map(str, names)]
    rest = [f"{len(shown) - MOST_SHOWN} more"] if len(shown) > MOST_SHOWN else []
    return ", ".join([*shown[:MOST_SHOWN], *rest])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).split(":")[0].lower())
