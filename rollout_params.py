"""How a new champion is brought to the users: types and bounds of params.rollout."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from model_params import Count, Section, Share


class Limits(Section):
    alpha: Annotated[float, Field(gt=0, le=0.1)]  # that a version as good as the champion is rolled back in one step
    error_excess: Annotated[float, Field(ge=0, lt=1)]  # by which its share of errors may exceed the champion's
    p99_ratio: Annotated[float, Field(ge=1)]  # of its calls to the champion's
    overlap: Annotated[float, Field(ge=0, lt=1)]  # least mean share of the champion's list that it lists, too


class Rollout(Section):
    shadow_share: Share  # of the requests that the champion answers anew, also put to the candidate, unseen
    shadow_seconds: Annotated[float, Field(ge=0)]
    shadow_requests: Count  # compared before anybody is answered by the candidate
    canary: list[Share]  # of the users, step by step
    bake_seconds: Annotated[float, Field(ge=0)]  # of each step
    min_requests: Count  # that the candidate answers in each step, and either side before their p99 are compared
    limits: Limits

    @model_validator(mode="after")
    def _grows(self) -> Rollout:
        if self.canary != sorted(set(self.canary)):
            raise ValueError(f"canary is {self.canary}; expected shares that grow")
        return self
