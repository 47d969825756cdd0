"""Whether an answer is the one that was given at export. Worker side, and of those who ask a live server."""

from __future__ import annotations

TOLERANCE = 1e-5  # of a score, relative to the larger of 1 and the score


def difference(expected: dict, answer: dict) -> str | None:
    """How an answer departs from the golden one, in items, order or scores; None if it does not."""
    wanted, got = expected["items"], answer["items"]
    ids = [item["item_id"] for item in wanted], [item["item_id"] for item in got]
    if ids[0] != ids[1]:
        return f"items {ids[1][:5]}, not {ids[0][:5]}"
    for one, other in zip(wanted, got, strict=True):
        if not abs(one["score"] - other["score"]) <= TOLERANCE * max(1.0, abs(one["score"])):
            return f"{one['item_id']} scores {other['score']}, not {one['score']}"
    return None
