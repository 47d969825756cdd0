"""Errors of the online store.

StoreError                the store cannot do what was requested
├── StoreUnavailable      it does not answer: missing, stopped, or slower than the timeout
│   └── StoreAbsent       the embedded store has not been created yet
├── StoreConflict         other writers changed the same records at every attempt
└── RecordError           a stored record cannot be read
    └── NewerRecord       a newer version of the code wrote it; this code must not overwrite it
ProfileError              a profile to be stored is malformed; names the field
"""

from __future__ import annotations

from config.command import UserError


class StoreError(UserError):
    """The store cannot do what was requested. The message names the store and the reason."""


class StoreUnavailable(StoreError):
    """The store does not answer within its timeout."""


class StoreAbsent(StoreUnavailable):
    """The file of the embedded store does not exist: nothing was ever stored."""


class StoreConflict(StoreError):
    """Other writers were faster at every attempt. Nothing of theirs was overwritten."""


class RecordError(StoreError):
    """A stored record cannot be read."""


class NewerRecord(RecordError):
    """A stored record has a format that this code does not know."""


class ProfileError(UserError):
    """A profile to be stored is malformed. `field` names the part."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message
