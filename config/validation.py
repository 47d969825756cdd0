"""What all sections of settings share: their base class, common types, and how an invalid value is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


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


class ModelSection(BaseModel):
    """One entry of `train.models`. `training.model_factory` checks its other keys: they belong to the model's class."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
