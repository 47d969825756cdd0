"""Search spaces of `tune.spaces` in params.yaml: the values that a tuner may try for each hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Value = bool | int | float | str | None
GOLDEN_RATIO = 0.6180339887498949  # a point inside a range that is no whole number where its ends are


class _Space(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Range(_Space):
    low: float
    high: float
    log: bool  # spread evenly over orders of magnitude

    @model_validator(mode="after")
    def _check_order(self):
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; expected low < high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; expected more than 0 where log is true")
        return self

    def including(self, value: Value):
        """This range, widened to contain a value."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"the model's own value is {value!r}, which no range holds; expected kind: choice")
        if self.log and value <= 0:
            raise ValueError(f"the model's own value is {value}; expected more than 0 where log is true")
        return self.model_copy(update={"low": min(self.low, value), "high": max(self.high, value)})


class FloatRange(_Range):
    kind: Literal["float"]

    def probes(self) -> list[Value]:
        """Values that a model must accept for this space to be valid."""
        return [self.low, self.high, self.low + (self.high - self.low) * GOLDEN_RATIO]


class IntRange(_Range):
    kind: Literal["int"]
    low: int
    high: int

    def probes(self) -> list[Value]:
        """Values that a model must accept for this space to be valid."""
        return [self.low, self.high]


class Choice(_Space):
    kind: Literal["choice"]
    values: Annotated[list[Value], Field(min_length=2)]

    @model_validator(mode="after")
    def _check_duplicates(self):
        for value in self.values:
            if self.values.count(value) > 1:
                raise ValueError(f"values name {value!r} twice")
        return self

    def including(self, value: Value) -> Choice:
        """This choice, with a value added."""
        return self if value in self.values else self.model_copy(update={"values": [*self.values, value]})

    def probes(self) -> list[Value]:
        """Values that a model must accept for this space to be valid."""
        return list(self.values)


Space = Annotated[FloatRange | IntRange | Choice, Field(discriminator="kind")]


def widen_spaces(spaces: Mapping[str, Space], model: BaseModel) -> dict[str, Space]:
    """The spaces, each wide enough to contain the model's own value, from which a search starts.

    Raises:
        ValueError: the model lacks a hyperparameter, or refuses a value of its space. The text names both and
            continues `tune.spaces.<label>`.
    """
    if unknown := sorted(set(spaces) - set(type(model).model_fields)):
        raise ValueError(f" names {', '.join(unknown)}, which the model does not have")
    widened = {}
    for name, space in spaces.items():
        for value in space.probes():
            try:
                type(model).model_validate(model.model_dump() | {name: value})
            except ValidationError as error:
                message = error.errors()[0]["msg"]
                raise ValueError(f".{name}: the model refuses {value!r}: {message[:1].lower()}{message[1:]}") from None
        try:
            widened[name] = space.including(getattr(model, name))
        except ValueError as error:
            raise ValueError(f".{name}: {error}") from None
    return widened
