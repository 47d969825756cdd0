"""Types and bounds of params.yaml. No defaults: a default is a value that DVC cannot see."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from config.command import UserError, describe_fault
from config.gate_params import ErrorRates, Gate, Rollout
from config.model_params import Count, Hybrid, ModelParams, Section, Share
from config.paths import ROOT as ROOT
from config.search_space import Space, around
from config.segment_params import Segments


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


class Limited(Section):
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
    at_most: list[Limited]
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
                around(space, self.train.models[label])
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
        raise ParamsError("\n".join(_sentence(path, fault) for fault in error.errors())) from None


def _sentence(path: Path, fault) -> str:
    parts = list(fault["loc"])
    if parts[:2] == ["train", "models"]:
        del parts[3:4]  # pydantic names the class there, which is no key of the file
    if parts[:2] == ["segments", "rules"]:
        del parts[5:6]  # and here the kind of condition
    if parts[:2] == ["tune", "spaces"]:
        del parts[4:5]  # and the kind here
    key = ".".join(map(str, parts))
    if fault["type"] == "value_error":  # ours: the text names keys and values itself
        return f"{path.name}: {f'{key}: ' if key else ''}{fault['ctx']['error']}"
    key = key or "the file"
    if fault["type"] == "extra_forbidden":
        return f"{path.name}: {key} is not a known parameter"
    if fault["type"] == "missing":
        return f"{path.name}: {key} is missing"
    return f"{path.name}: {describe_fault(key, fault)}"
