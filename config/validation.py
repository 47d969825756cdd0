"""What all settings share: the base class of sections, common types, and how an invalid value is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.command import UserError
from config.redact import HIDDEN

Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]

Settings = TypeVar("Settings", bound=BaseModel)


class SettingsError(UserError):
    """An environment variable has an invalid value; the message names it."""


class Section(BaseModel):
    """A section of settings that refuses unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def describe_error(name: str, error: Mapping[str, Any]) -> str:
    """One sentence on a Pydantic error: `split.test_quantile is 1.2; input should be less than 1`.

    `name` is the setting as the user knows it: a dotted key, an environment variable, an option.
    """
    if error["type"] == "extra_forbidden":
        return f"{name} is not a known parameter"
    if error["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {error['input']!r}; {error_message(error)}"


def error_message(error: Mapping[str, Any]) -> str:
    """The message of an entry of `ValidationError.errors()`, as the second half of a sentence."""
    message = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def read_environment(settings: type[Settings], prefix: str) -> Settings:
    """Settings from environment variables `<prefix><FIELD>`.

    Raises:
        SettingsError: one line per invalid variable, without the values of fields that have `repr=False`.
    """
    try:
        return settings()
    except ValidationError as error:
        secret = {name for name, field in settings.model_fields.items() if not field.repr}
        faults = [f | {"input": HIDDEN} if f["loc"][0] in secret else f for f in error.errors()]
        raise SettingsError("\n".join(describe_error(_variable(fault, prefix), fault) for fault in faults)) from None


def _variable(error: Mapping[str, Any], prefix: str) -> str:
    """The environment variable of an error, with the part of its value: TIDEGATE_EDGE_ARMS.a.share."""
    field, *parts = error["loc"]
    return prefix + str(field).upper().removeprefix(prefix) + "".join(f".{part}" for part in parts)


class ModelSection(BaseModel):
    """One entry of `train.models`. `training.model_factory` checks its other keys: they belong to the model's class."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
