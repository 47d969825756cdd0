"""The name of an event whose source gives it none. Loads nothing: the serving worker uses it too."""

from __future__ import annotations

from hashlib import blake2b


def event_id(user_id: str, item_id: str, event_time_us: int, event_type: str) -> str:
    """32 hex digits (BLAKE2b, RFC 7693), the same on every machine.

    Lengths stand before the ids, so that no two different events spell the same text.
    """
    text = f"{len(user_id)}:{user_id}{len(item_id)}:{item_id}{event_time_us}:{event_type}"
    # JSON text may hold half a surrogate pair, which plain UTF-8 refuses.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
