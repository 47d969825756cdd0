"""An answer as clients get it. Worker side."""

from __future__ import annotations

from collections.abc import Sequence

from data.instants import to_iso
from serving.worker.request import Request
from serving.worker.rungs import Rung


def dress(
    request: Request,
    rung: Rung,
    items: list[dict],
    feature_time_us: int,
    segments: Sequence[str],
    read: dict[str, str],
    about: dict,
) -> dict:
    """One answer; see the README for its fields.

    Args:
        items: {"item_id", "score", "title"}, best first.
        feature_time_us: of the newest thing known of whoever asks; 0 where nothing is.
        read: what it was computed from, as `serving.worker.inputs.of` gives it.
        about: what is the same in all answers of a batch: `trends_time`, `model_version`, `dataset_version`,
            `computed_on`.
    """
    return {
        "items": items,
        "rung": rung.name,
        "reason": rung.reason,
        "time": to_iso(request.time_us),
        "feature_time": to_iso(feature_time_us) if feature_time_us else None,
        "segments": list(segments),
        "request_id": request.request_id,
        "inputs": read,
        **about,
    }
