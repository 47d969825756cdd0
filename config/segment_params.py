"""Types and bounds of the section `segments` of params.yaml: what a rule may ask of a user's profile.

Unstated keys are None: a bound that is not written does not bind, and is no value that could hide.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bounded(_Part):
    """A number that must lie within all the bounds that are stated."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _is_bounded(self) -> Bounded:
        low = [bound for bound in (self.at_least, self.above) if bound is not None]
        high = [bound for bound in (self.at_most, self.below) if bound is not None]
        if not low and not high:
            raise ValueError("there is no bound; expected at_least, at_most, above or below")
        if low and high and max(low) > min(high):
            raise ValueError(f"no number is above {max(low):g} and below {min(high):g}")
        return self


class OfFact(Bounded):
    fact: Literal["events", "days_since_first", "days_since_last"]
    last_days: Annotated[float, Field(gt=0)] | None = None  # of events: count only those of the last so many days

    @model_validator(mode="after")
    def _counts_what_it_limits(self) -> OfFact:
        if self.last_days is not None and self.fact != "events":
            raise ValueError(f"last_days is {self.last_days:g}, but {self.fact} counts no events")
        return self


class Share(_Part):
    field: str  # of items: genres, or another column of the side table
    value: str


class OfShare(Bounded):
    share_of: Share  # the share of the history's events whose item has the value, in [0, 1]


class OfTrait(_Part):
    trait: str
    equals: str | float | None = None
    one_of: Annotated[list[str | float], Field(min_length=1)] | None = Field(default=None, alias="in")

    @field_validator("equals", "one_of", mode="before")
    @classmethod
    def _flags_are_text(cls, value: Any) -> Any:
        values = [str(one) if isinstance(one, bool) else one for one in (value if isinstance(value, list) else [value])]
        return values if isinstance(value, list) else values[0]

    @model_validator(mode="after")
    def _names_values(self) -> OfTrait:
        if (self.equals is None) == (self.one_of is None):
            raise ValueError(f"trait {self.trait} needs either equals or in")
        return self


def _kind(condition: Any) -> str:
    keys = condition if isinstance(condition, dict) else getattr(type(condition), "model_fields", ())
    return next((key for key in ("trait", "share_of") if key in keys), "fact")


Condition = Annotated[
    Annotated[OfFact, Tag("fact")] | Annotated[OfTrait, Tag("trait")] | Annotated[OfShare, Tag("share_of")],
    Discriminator(_kind),
]
Conditions = Annotated[list[Condition], Field(min_length=1)]


class Rule(_Part):
    """A segment: users for whom every condition of `all` holds, and at least one of `any`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    all: Conditions | None = None
    any: Conditions | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Rule:
        if self.all is None and self.any is None:
            raise ValueError(f"segment {self.name} has no conditions; expected all or any")
        return self


class Segments(_Part):
    rules: list[Rule]

    @field_validator("rules")
    @classmethod
    def _names_differ(cls, rules: list[Rule]) -> list[Rule]:
        names = [rule.name for rule in rules]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two segments are called {twice[0]}")
        return rules

    def plain(self) -> list[dict]:
        """The rules as JSON values, as `features.segments` reads them."""
        return [rule.model_dump(exclude_none=True, by_alias=True) for rule in self.rules]
