"""Column names and time units. Imports nothing, so that the serving worker may use it."""

USER = "user_id"  # the world's name of a user, always text
ITEM = "item_id"  # the world's name of an item, always text
EVENT_TIME = "event_time"  # when it happened, UTC, microseconds
KNOWN_TIME = "known_time"  # when the platform learned of it, UTC, microseconds
EVENT_ID = "event_id"
EVENT_TYPE = "event_type"
VALUE = "value"
SESSION = "session_id"

EVENT_COLUMNS = (EVENT_ID, USER, ITEM, EVENT_TIME, KNOWN_TIME, EVENT_TYPE, VALUE, SESSION)

# Side tables
TRAINING_CONSENT = "consent_training"  # users: may events of this user train a model?
TITLE = "title"
GENRES = "genres"  # items: "Drama|Comedy"
DESCRIPTION = "description"
RELEASE_TIME = "release_time"  # items: UTC; null where unknown

PART = "part"  # train | valid | test
PARTS = ("train", "valid", "test")

MICROSECONDS = 1_000_000  # in a second; every integer time in this project counts these since 1970
MINUTE = 60 * MICROSECONDS
HOUR = 60 * MINUTE
DAY = 24 * HOUR
