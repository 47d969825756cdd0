"""Errors of the registry, of signatures and of deployments, apart from these, which load MLflow or torch."""

from __future__ import annotations

from config.command import UserError


class RegistryError(UserError):
    """The registry does not hold, or does not justify, what was requested; the text says why."""


class SignatureError(RegistryError):
    """Nothing can be signed or verified, or a signature is not of a trusted key; the text says why."""


class UntrustedKeyError(SignatureError):
    """The key of a signature is not trusted, or not any more, so nothing is known about what it signed."""


class DecidedMeanwhileError(RegistryError):
    """Somebody else decided at the same time, so nothing was decided: the facts must be looked at again."""


class DeployError(UserError):
    """A version does not serve; the text says why, and what answers instead."""
