"""Errors of the online store and of the profiles in it."""

from __future__ import annotations

from config.command import UserError


class StoreError(UserError):
    """The store cannot do what was requested. The message names the store and the reason."""


class StoreUnavailable(StoreError):
    """The store does not answer: it is missing, stopped, or slower than the timeout."""


class StoreAbsent(StoreUnavailable):
    """The files of the embedded store do not exist: nothing was ever stored, all is lost, or the path is wrong."""


class StoreConflict(StoreError):
    """Other writers were faster at every attempt. Nothing of theirs was overwritten."""


class RecordError(StoreError):
    """A stored record cannot be read."""


class NewerRecord(RecordError):
    """A newer version of the code wrote the record. This code must not overwrite it."""


class ProfileError(UserError):
    """A profile to be stored is malformed. The message names the field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
