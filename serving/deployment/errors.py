"""The errors of the registry and of signatures, apart from both because a host that only serves has no MLflow."""

from __future__ import annotations

from config.command import UserError


class RegistryError(UserError):
    """The registry does not hold, or does not justify, what was requested; the text says why."""


class SignatureError(RegistryError):
    """Nothing can be signed or verified, or a signature is not of a trusted key; the text says why."""


class UntrustedKeyError(SignatureError):
    """The key of a signature is not trusted, or not any more, so nothing is known about what it signed."""
