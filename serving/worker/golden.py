"""Whether an answer is the one that was given at export. Worker side, and of those who ask a live server."""

from __future__ import annotations

TOLERANCE = 1e-5  # of a score, relative to the larger of 1 and the score


def difference(expected: dict, answer: dict) -> str | None:
    """How an answer departs from the golden one, in its items or their scores; None if it does not.

    Another processor rounds otherwise. So items whose scores are equal but for rounding may change places, and at the
    end of the list one of them may stand for the other.
    """
    wanted, got = expected["items"], answer["items"]
    if len(wanted) != len(got):
        return f"{len(got)} items, not {len(wanted)}"
    scores = {item["item_id"]: item["score"] for item in got}
    for one, other in zip(wanted, got, strict=True):
        if one["item_id"] not in scores and not _alike(one["score"], got[-1]["score"]):
            return f"{one['item_id']} is missing; the items are {list(scores)[:5]}, not {_ids(wanted)[:5]}"
        own = scores.get(one["item_id"], got[-1]["score"])
        if not _alike(one["score"], own):
            return f"{one['item_id']} scores {own}, not {one['score']}"
        if not _alike(one["score"], other["score"]):
            return f"{other['item_id']} scores {other['score']}, where {one['item_id']} scored {one['score']}"
    return None


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one))


def _ids(items: list[dict]) -> list[str]:
    return [item["item_id"] for item in items]
