"""Types and bounds of the gate's policy in params.yaml, and of the simulation that shows how often it errs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.model_params import Count, Section, Share


class GuardRails(Section):
    """How far a candidate's lists of 10 may move from the champion's, as ratios of the champion's figure."""

    coverage: Annotated[float, Field(ge=0, le=1)]  # at least: share of the catalogue that is shown to anybody
    diversity: Annotated[float, Field(ge=0, le=1)]  # at least: 1 - mean cosine of the content within a list
    popularity_lift: Annotated[float, Field(ge=1)]  # at most: events of an item shown, over those of an average item


class Budgets(Section):
    """What a candidate's artifact may cost."""

    size_mb: Annotated[float, Field(gt=0)]  # of all its files, 10^6 bytes
    latency_ms: Annotated[float, Field(gt=0)]  # median of an answer: one thread, this process, no server
    latency_ratio: Annotated[float, Field(ge=1)]  # of that to the champion's, ...
    latency_free_ms: Annotated[float, Field(ge=0)]  # ... which does not count up to here: fast is fast enough


class Gate(Section):
    version: Count  # of this policy: raise it with every change, so that people can name it
    primary: Literal["next_item", "horizon"]  # the target on which the candidate must be better
    alpha: Annotated[float, Field(gt=0, le=0.2)]  # one-sided, divided by the looks at the window
    margin: Annotated[float, Field(ge=0, lt=1)]  # how much worse, relatively, the other target may be
    power: Share  # with which the number of users that is asked for would decide
    min_users: Count  # of either target; fewer decide nothing
    resamples: Annotated[int, Field(ge=200)]  # of the gate's bootstrap
    segment_margin: Annotated[
        float, Field(ge=0, lt=1)
    ]  # a segment must not be shown to lose more than this, relatively
    segment_min_users: Count  # fewer are shown and not tested; cold users are always tested
    guard_rails: GuardRails
    budgets: Budgets
    max_age_days: Annotated[float, Field(gt=0)] | None  # of the newest event when the gate is asked; None: any
    min_index_recall: Share  # of the exact best 20, that an index must state at export
    min_match_rate: (
        Share  # of served features with the data set's, as skew measured it; shown below it, nobody is judged
    )
    refit: bool  # fit the champion's recipe on the candidate's data too, to tell the idea from the fresher data


class ErrorRates(Section):
    looks: Count  # simulated at each point that shows an error rate
    power_looks: Count  # and at each that shows power
    users: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=2)]  # of a simulated window
    effects: list[Annotated[float, Field(gt=0, le=1)]]  # true relative gains, whose power is drawn
    detectable: Annotated[float, Field(gt=0, le=1)]  # one of them: what gate.min_users lets the gate see


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
