"""Search spaces of hyperparameters: sections of params.yaml, checked against the model that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from config.validation import Section, error_message

Value = bool | int | float | str | None
GOLDEN = 0.6180339887498949  # a fraction of a range: inside it, and not a whole number if the ends are


class _Range(Section):
    low: float
    high: float
    log: bool  # sample evenly over orders of magnitude

    @model_validator(mode="after")
    def _is_a_range(self):
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; expected low < high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; expected more than 0 where log is true")
        return self

    def including(self, value: Value):
        """This range, extended to contain `value`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"the model's own value is {value!r}, which no range holds; expected kind: choice")
        if self.log and value <= 0:
            raise ValueError(f"the model's own value is {value}; expected more than 0 where log is true")
        return self.model_copy(update={"low": min(self.low, value), "high": max(self.high, value)})


class FloatRange(_Range):
    kind: Literal["float"]

    def probes(self) -> list[Value]:
        """Values that show whether the model accepts the whole range."""
        return [self.low, self.high, self.low + (self.high - self.low) * GOLDEN]


class IntRange(_Range):
    kind: Literal["int"]
    low: int
    high: int

    def probes(self) -> list[Value]:
        return [self.low, self.high]


class Choice(Section):
    kind: Literal["choice"]
    values: Annotated[list[Value], Field(min_length=2)]

    @model_validator(mode="after")
    def _has_distinct_values(self):
        for value in self.values:
            if self.values.count(value) > 1:
                raise ValueError(f"values name {value!r} twice")
        return self

    def including(self, value: Value) -> Choice:
        """This choice, with `value` added if it is missing."""
        return self if value in self.values else self.model_copy(update={"values": [*self.values, value]})

    def probes(self) -> list[Value]:
        return list(self.values)


Space = Annotated[FloatRange | IntRange | Choice, Field(discriminator="kind")]


def spaces_around(spaces: Mapping[str, Space], model: BaseModel) -> dict[str, Space]:
    """Extend each space to contain the model's own value, where a search starts.

    Raises ValueError if the model lacks a parameter, or refuses a value of its space. The message names both.
    """
    if unknown := sorted(set(spaces) - set(type(model).model_fields)):
        raise ValueError(f" names {', '.join(unknown)}, which the model does not have")
    extended = {}
    for name, space in spaces.items():
        _check_values(name, space, model)
        try:
            extended[name] = space.including(getattr(model, name))
        except ValueError as error:
            raise ValueError(f".{name}: {error}") from None
    return extended


def _check_values(name: str, space: Space, model: BaseModel) -> None:
    for value in space.probes():
        try:
            type(model).model_validate(model.model_dump() | {name: value})
        except ValidationError as error:
            raise ValueError(f".{name}: the model refuses {value!r}: {error_message(error.errors()[0])}") from None
