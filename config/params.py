"""Types and bounds of the section `segments` of params.yaml: what a rule may ask of a user's profile.

Unstated keys are None: a bound that is not written does not bind, and is no value that could hide.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from config.command import UserError
from config.model_params import Hybrid, ModelParams
from config.paths import ROOT as ROOT
from config.search_space import Space, spaces_around
from config.validation import Count, Section, Share, describe_error


class Bounds(Section):
    """A number that must lie within all the bounds that are stated."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _is_bounded(self) -> Bounds:
        low = [bound for bound in (self.at_least, self.above) if bound is not None]
        high = [bound for bound in (self.at_most, self.below) if bound is not None]
        if not low and not high:
            raise ValueError("there is no bound; expected at_least, at_most, above or below")
        if low and high and max(low) > min(high):
            raise ValueError(f"no number is above {max(low):g} and below {min(high):g}")
        return self


class FactCondition(Bounds):
    fact: Literal["events", "days_since_first", "days_since_last"]
    last_days: Annotated[float, Field(gt=0)] | None = None  # of events: count only those of the last so many days

    @model_validator(mode="after")
    def _counts_what_it_limits(self) -> FactCondition:
        if self.last_days is not None and self.fact != "events":
            raise ValueError(f"last_days is {self.last_days:g}, but {self.fact} counts no events")
        return self


class ItemShare(Section):
    field: str  # of items: genres, or another column of the side table
    value: str


class ShareCondition(Bounds):
    share_of: ItemShare  # the share of the history's events whose item has the value, in [0, 1]


class TraitCondition(Section):
    trait: str
    equals: str | float | None = None
    one_of: Annotated[list[str | float], Field(min_length=1)] | None = Field(default=None, alias="in")

    @field_validator("equals", "one_of", mode="before")
    @classmethod
    def _flags_are_text(cls, value: Any) -> Any:
        values = [str(one) if isinstance(one, bool) else one for one in (value if isinstance(value, list) else [value])]
        return values if isinstance(value, list) else values[0]

    @model_validator(mode="after")
    def _names_values(self) -> TraitCondition:
        if (self.equals is None) == (self.one_of is None):
            raise ValueError(f"trait {self.trait} needs either equals or in")
        return self


def _kind(condition: Any) -> str:
    keys = condition if isinstance(condition, dict) else getattr(type(condition), "model_fields", ())
    return next((key for key in ("trait", "share_of") if key in keys), "fact")


Condition = Annotated[
    Annotated[FactCondition, Tag("fact")]
    | Annotated[TraitCondition, Tag("trait")]
    | Annotated[ShareCondition, Tag("share_of")],
    Discriminator(_kind),
]
Conditions = Annotated[list[Condition], Field(min_length=1)]


class Rule(Section):
    """A segment: users for whom every condition of `all` holds, and at least one of `any`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    all: Conditions | None = None
    any: Conditions | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Rule:
        if self.all is None and self.any is None:
            raise ValueError(f"segment {self.name} has no conditions; expected all or any")
        return self


class Segments(Section):
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


class RolloutLimits(Section):
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
    limits: RolloutLimits

    @model_validator(mode="after")
    def _grows(self) -> Rollout:
        if self.canary != sorted(set(self.canary)):
            raise ValueError(f"canary is {self.canary}; expected shares that grow")
        return self


class Simulate(Section):
    users: Count
    items: Count
    events: Count
    days: Annotated[int, Field(ge=14)]
    start: datetime


class Ingest(Section):
    source: Literal["auto", "simulator", "movielens-100k", "movielens-dat", "movielens-csv", "recbole", "table"]
    path: str | None
    users: str | None
    items: str | None
    columns: dict[str, str]
    event_types: list[str] | None
    min_value: float | None
    repeats: Literal["first", "last", "all"]
    time_unit: Literal["auto", "s", "ms", "us"]


class Split(Section):
    valid_quantile: Share
    test_quantile: Share
    valid_start: datetime | None
    test_start: datetime | None
    horizon_days: Count


class Trends(Section):
    refresh_minutes: Count
    windows_days: list[Count]
    half_lives_days: list[Count]


class Featurize(Section):
    text_dimensions: Annotated[int, Field(ge=0)]
    max_trait_values: Count
    trait_buckets: Annotated[int, Field(ge=2)]
    context: list[str]
    trends: Trends


class Online(Section):
    max_events: Count  # the newest events of a user that the online store keeps
    ttl_days: Annotated[float, Field(gt=0)] | None  # what was learned longer ago is not served; None: for ever


class Train(Section):
    seed: Annotated[int, Field(ge=0)]
    early_stopping_cases: Count
    validation_cases: Count
    eval_batch_size: Count
    models: dict[str, ModelParams]

    @model_validator(mode="after")
    def _parts_are_models(self) -> Train:
        for label, model in self.models.items():
            for part in model.parts if isinstance(model, Hybrid) else []:
                if part not in self.models or isinstance(self.models[part], Hybrid):
                    raise ValueError(f"models.{label}.parts names {part}, which is no other model that is not a hybrid")
        return self


class Evaluate(Section):
    k: list[Annotated[int, Field(ge=1, le=100)]]  # rankings keep 100 ids; 10 is always measured
    resamples: Annotated[int, Field(ge=100)]


class Retrain(Section):
    candidate: str  # of train.models: the champion's rival where the command names none
    refit: Literal["gated", "full"]  # what serves after a PROMOTE: what was gated, or its recipe fitted on all events
    refit_requests: Count  # the newest ones, that a refit and its parent are both asked
    refit_overlap: Annotated[float, Field(ge=0, lt=1)]  # least mean share of the parent's 10 that the refit lists, too


class ItemLimit(Section):
    field: str  # of items: genres, or another column of the side table
    value: str
    items: Annotated[int, Field(ge=0)]  # that a list may hold


class Index(Section):
    kind: Literal[
        "auto", "exact", "faiss"
    ]  # auto: faiss for a catalogue above `above`, if the model's scores are products
    above: Count  # items
    candidates: Annotated[int, Field(ge=20)]  # found for a request, then scored exactly
    recall: Annotated[float, Field(gt=0, le=1)]  # of the exact best 20, that export searches far enough for
    requests: Annotated[int, Field(ge=16)]  # before the cut, by which it searches and measures


class Serve(Section):
    diversity: Annotated[float, Field(ge=0, lt=1)]  # weight of being unlike the items above; 0 keeps the scores' order
    at_most: list[ItemLimit]
    index: Index


class Tune(Section):
    model: str
    trials: Count
    seconds: Annotated[float, Field(gt=0)]  # no trial begins after it
    objectives: Annotated[list[Literal["accuracy", "diversity", "latency"]], Field(min_length=1)]
    max_steps: Count | None  # of one trial; None: the model's own
    folds: Count  # windows that a trial is scored on, each as long as the validation window, which is the last
    spaces: dict[str, dict[str, Space]]  # label -> parameter -> the values to try

    @model_validator(mode="after")
    def _takes_the_most_accurate(self) -> Tune:
        if self.objectives[0] != "accuracy" or len(set(self.objectives)) < len(self.objectives):
            stated = ", ".join(self.objectives)
            raise ValueError(
                f"objectives are {stated}; expected accuracy first, by which a recipe is taken, none twice"
            )
        return self


class Sensitivity(Section):
    models: list[str]  # fitted where none are named; those that train.models lacks are left out
    rolling_windows: Annotated[int, Field(ge=0)]  # before the validation window, as long as it
    folds: Annotated[int, Field(ge=2)]  # of users, and of sessions
    session_minutes: Count  # a pause this long ends a session, where the data names none
    cases: Count  # of each protocol, drawn once


class Audit(Section):
    session_minutes: Count  # a pause this long ends a session, where the data names none
    first_items: Count  # whose trends are looked at before their first event
    tied_cases: Count  # cases with ties, encoded as a model reads them
    training_questions: Count  # of a network's first batches, looked at as it is fed them
    travelled_cases: Count  # of each target, computed with and without all that comes from their moment on
    probed_cases: Annotated[int, Field(ge=2)]  # of `next_item`, of which the target probe makes duels
    probe_alpha: Annotated[float, Field(gt=0, lt=0.05)]  # of a false alarm of the probe, over all features of a cut
    too_good: Annotated[float, Field(gt=0.5, lt=1)]  # share of duels that no honest context column or trait wins
    examples: Count  # rows that a finding shows


class Skew(Section):
    answers: Count  # of the served log, drawn by the seed
    recomputed: Annotated[int, Field(ge=0)]  # of those that differ, for what it costs their scores


class Experiment(Section):
    baseline_trials: Count  # of a model that only counts, at most: it leaves its minutes to the networks
    max_steps: Count  # of every network that stops earlier in train.models
    max_epochs: Count


class Params(Section):
    dataset: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    seed: Annotated[int, Field(ge=0)]
    simulate: Simulate
    ingest: Ingest
    split: Split
    featurize: Featurize
    segments: Segments
    online: Online
    train: Train
    evaluate: Evaluate
    serve: Serve
    tune: Tune
    experiment: Experiment
    sensitivity: Sensitivity
    audit: Audit
    skew: Skew
    error_rates: ErrorRates
    retrain: Retrain
    gate: Gate
    rollout: Rollout

    @model_validator(mode="after")
    def _spaces_fit_their_models(self) -> Params:
        for label, space in self.tune.spaces.items():
            if label not in self.train.models:
                raise ValueError(f"tune.spaces names the model {label}, which train.models does not hold")
            try:
                spaces_around(space, self.train.models[label])
            except ValueError as error:
                raise ValueError(f"tune.spaces.{label}{error}") from None
        return self


class ParamsError(UserError):
    """params.yaml holds something that cannot be; the message names the key, the value and the bound."""


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice: of two values one would vanish."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"found duplicate key {key!r}")
        return super().construct_mapping(node, deep)


def load(path: Path | str = "params.yaml") -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: one line per fault: `params.yaml: split.test_quantile is 1.2; expected ...`.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; run from the project's root") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not text in UTF-8: {error}") from None
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError("\n".join(_describe(path, fault) for fault in error.errors())) from None


def _describe(path: Path, error) -> str:
    keys = list(error["loc"])
    # Pydantic inserts the name of the chosen class of a union, which is not a key of the file.
    if keys[:2] == ["train", "models"]:
        del keys[3:4]
    if keys[:2] == ["segments", "rules"]:
        del keys[5:6]
    if keys[:2] == ["tune", "spaces"]:
        del keys[4:5]
    key = ".".join(map(str, keys))
    if error["type"] == "value_error":  # raised by a validator of ours, whose message names the value itself
        return f"{path.name}: {f'{key}: ' if key else ''}{error['ctx']['error']}"
    return f"{path.name}: {describe_error(key or 'the file', error)}"
