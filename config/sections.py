"""Base classes and bounds that the sections of params.yaml share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section that refuses unknown keys and cannot be changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(BaseModel):
    """One entry of `train.models`. `training.model_factory` checks its other keys: they belong to the model's class."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
