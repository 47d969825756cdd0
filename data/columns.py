"""Column names, time units, and the id of an event that came without one. Imports nothing of the project."""

from __future__ import annotations

from hashlib import blake2b

USER = "user_id"  # text, as the source names the user
ITEM = "item_id"  # text, as the source names the item
EVENT_TIME = "event_time"  # when it happened, UTC, microseconds
KNOWN_TIME = "known_time"  # when the platform learned of it, UTC, microseconds
EVENT_ID = "event_id"
EVENT_TYPE = "event_type"
VALUE = "value"
SESSION = "session_id"
DEFAULT_EVENT_TYPE = "interaction"

EVENT_COLUMNS = (EVENT_ID, USER, ITEM, EVENT_TIME, KNOWN_TIME, EVENT_TYPE, VALUE, SESSION)

# Side tables
TRAINING_CONSENT = "consent_training"  # users: whether models may train on the user's events
TITLE = "title"
GENRES = "genres"  # items: "Drama|Comedy"
DESCRIPTION = "description"
RELEASE_TIME = "release_time"  # items: UTC; null where unknown

PART = "part"  # train | valid | test
PARTS = ("train", "valid", "test")

MICROSECONDS = 1_000_000  # per second; all integer times in this project are microseconds since 1970
MINUTE = 60 * MICROSECONDS
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def event_id(user_id: str, item_id: str, event_time_us: int, event_type: str) -> str:
    """Derive an id from an event's content: 32 hex digits (BLAKE2b, RFC 7693), the same on every machine."""
    # The lengths before the ids keep different events from producing the same text.
    text = f"{len(user_id)}:{user_id}{len(item_id)}:{item_id}{event_time_us}:{event_type}"
    # JSON text may hold half of a surrogate pair, which plain UTF-8 refuses.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
