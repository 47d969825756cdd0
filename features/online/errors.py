"""What can go wrong with the online store.

StoreError                the store cannot do what was asked
├── StoreUnavailable      it does not answer: not there, stopped, or slower than the timeout
│   └── StoreAbsent       ... since nobody has made the embedded one yet
├── StoreConflict         other writers changed the same records at every attempt
└── RecordError           one stored record cannot be read
    └── NewerRecord       ... since newer code wrote it: this code must not write over it
ProfileError              what was to be stored is not a profile's; names the field
"""

from __future__ import annotations

from config.command import UserError


class StoreError(UserError):
    """The store cannot do what was asked; the text names the store and why."""


class StoreUnavailable(StoreError):
    """The store does not answer within its timeout."""


class StoreAbsent(StoreUnavailable):
    """The embedded store's file has not been made: nothing was ever stored."""


class StoreConflict(StoreError):
    """Other writers were faster at every attempt; nothing of theirs was overwritten."""


class RecordError(StoreError):
    """A stored record cannot be read."""


class NewerRecord(RecordError):
    """A stored record is of a format that this code does not know."""


class ProfileError(UserError):
    """Something to be stored is malformed; `field` names what."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message
