"""How many devices share one fit: TIDEGATE_DEVICES."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from command import UserError

VARIABLE = "TIDEGATE_DEVICES"


class DevicesError(UserError):
    """The fit cannot be shared as asked; the message names TIDEGATE_DEVICES."""


class DeviceSettings(BaseSettings):
    """Read from the environment: it says who computes, never what, so it is no part of params.yaml.

    Losses and weights are those of one device up to rounding; only what dropout leaves out is drawn differently,
    as under another seed.
    """

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", env_ignore_empty=True, frozen=True, extra="ignore")

    devices: Annotated[int, Field(ge=1)] = 1


def stated() -> int:
    """The number of devices that the environment asks for, 1 where it says nothing.

    Raises:
        DevicesError: it is no whole number of at least 1.
    """
    try:
        return DeviceSettings().devices
    except ValidationError as error:
        fault = error.errors()[0]
        said = fault["msg"]
        raise DevicesError(f"{VARIABLE} is {fault['input']!r}; {said[:1].lower()}{said[1:]}") from None
