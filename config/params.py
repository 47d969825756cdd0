"""Types and bounds of params.yaml. There are no defaults, since DVC could not see them."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from config.command import UserError
from config.search_space import Space
from config.validation import Count, Fraction, ModelSection, NonNegativeInt, Positive, Section, Share, describe_error

# Data


class Simulate(Section):
    users: Count
    items: Count
    events: Count
    days: Annotated[int, Field(ge=14)]
    start: datetime


class TableFormat(Section):
    """How the files of one table are written. Parquet and JSON need na_values only."""

    key: ClassVar[str] = "ingest.formats"
    encoding: str | None  # None: UTF-8, or UTF-16 or UTF-32 by its byte-order mark
    delimiter: Annotated[str, Field(min_length=1)] | None  # None: found in the header
    quote: Annotated[str, Field(min_length=1, max_length=1)] | None  # None: quotes are letters
    na_values: list[str]  # cells that hold no value
    time_format: str | None  # of every time column: a strptime format, or s, ms, us, ns since 1970; None: found
    timezone: str  # of times without an offset: an IANA name

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str | None) -> str | None:
        try:
            "a".encode(encoding or "utf-8")
        except (LookupError, ValueError):
            raise ValueError("expected a text encoding such as utf-8, cp1251, latin-1 or gbk") from None
        return encoding

    @field_validator("delimiter")
    @classmethod
    def _has_no_line_break(cls, delimiter: str | None) -> str | None:
        if delimiter in ("tab", "\\t"):
            return "\t"
        if delimiter and re.search(r"[\r\n\0\"]", delimiter):
            raise ValueError("expected one or more characters without a quote, a line break or a NUL")
        return delimiter

    @field_validator("quote")
    @classmethod
    def _is_ascii(cls, quote: str | None) -> str | None:
        if quote and (not quote.isascii() or quote.isalnum() or quote.isspace()):
            raise ValueError("expected one ASCII punctuation character, or null for none")
        return quote

    @field_validator("time_format")
    @classmethod
    def _is_a_time_format(cls, time_format: str | None) -> str | None:
        if time_format is None or time_format in ("s", "ms", "us", "ns"):
            return time_format
        try:
            datetime.strptime("", time_format)
        except (ValueError, re.error) as error:  # any format raises on the empty text
            if not re.search("directive|stray|redefinition", str(error)) and re.search("%[YycxG]", time_format):
                return time_format
        raise ValueError("expected s, ms, us, ns or a strptime format with a year, such as '%d.%m.%Y %H:%M'")

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, timezone: str) -> str:
        try:
            return ZoneInfo(timezone).key
        except (KeyError, ValueError, OSError):
            raise ValueError("expected an IANA name such as UTC or Europe/Berlin") from None


class EventsFormat(TableFormat):
    key = "ingest.formats.events"


class UsersFormat(TableFormat):
    key = "ingest.formats.users"


class ItemsFormat(TableFormat):
    key = "ingest.formats.items"


class TableFormats(Section):
    events: EventsFormat
    users: UsersFormat
    items: ItemsFormat


class Outliers(Section):
    """Which events lie so far from all others that they would move the beginning or the end of the data."""

    events_per_outlier: Annotated[int, Field(ge=20)]  # at most one outlier per so many events, before and after
    few: Count  # so many events, or ...
    max_share_after: Fraction  # ... this share, may be outliers after the others: newest events are the dearest
    min_pause_days: Positive  # between the outliers and the others, and ...
    min_pause_share: Fraction  # ... this share of the time that the others cover, and ...
    min_pause_ratio: Annotated[float, Field(ge=1)]  # ... so many times the longest pause among the others
    future_days: Annotated[float, Field(ge=0)] | None  # events may lie so far after the ingest; None: anywhere


class Ingest(Section):
    source: Literal[
        "auto", "simulator", "events", "movielens-100k", "movielens-dat", "movielens-csv", "recbole", "mind", "otto", "segment",
        "segment-warehouse", "ga4", "rees46", "table",
    ]  # fmt: skip
    path: str | None
    until: datetime | None  # read only collected events that became known before; None: all
    users: str | None
    items: str | None
    columns: dict[str, str]
    formats: TableFormats
    event_types: list[str] | None
    min_value: float | None
    repeats: Literal["first", "last", "all"]
    max_quarantine: Annotated[float, Field(ge=0, le=1)]  # of the rows of any table; a greater share stops ingest
    min_matched: Annotated[float, Field(ge=0, le=1)]  # of the events' users and items in a side table; fewer stop it
    require_consent: bool | None  # stop without a column of consent to training; None: if an earlier version had one
    clock_skew_seconds: Annotated[float, Field(ge=0)]  # known_time may be so much before event_time: it is raised to it
    outliers: Outliers


class Split(Section):
    valid_quantile: Share
    test_quantile: Share
    valid_start: datetime | None
    test_start: datetime | None
    horizon_days: Count


# Features


class Trends(Section):
    refresh_minutes: Count
    windows_days: list[Count]
    half_lives_days: list[Count]


class Featurize(Section):
    text_dimensions: NonNegativeInt
    max_trait_values: Count
    trait_buckets: Annotated[int, Field(ge=2)]
    context: list[str]
    trends: Trends


class Online(Section):
    max_events: Count  # newest events that the online store keeps per user
    ttl_days: Positive | None  # a profile that learned nothing for longer is not served; None: forever


class ItemShare(Section):
    field: str  # an item column: genres, or another one of the side table
    value: str


class Condition(Section):
    """Bounds of a fact, or of the share of events whose item has a value, in [0, 1]; or accepted values of a trait."""

    fact: Literal["events", "days_since_first", "days_since_last"] | None = None
    last_days: Positive | None = None  # for `events`: count only those of the last days
    share_of: ItemShare | None = None
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    trait: str | None = None
    equals: str | float | None = None
    one_of: Annotated[list[str | float], Field(min_length=1)] | None = Field(default=None, alias="in")

    @field_validator("equals", "one_of", mode="before")
    @classmethod
    def _flags_to_text(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [str(item) if isinstance(item, bool) else item for item in value]
        return str(value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _is_one_kind(self) -> Condition:
        low = [bound for bound in (self.at_least, self.above) if bound is not None]
        high = [bound for bound in (self.at_most, self.below) if bound is not None]
        values = [value for value in (self.equals, self.one_of) if value is not None]
        if sum(kind is not None for kind in (self.fact, self.share_of, self.trait)) != 1:
            raise ValueError("expected one of fact, share_of and trait")
        if self.last_days is not None and self.fact != "events":
            raise ValueError("last_days belongs to fact: events only")
        if self.trait is not None and (len(values) != 1 or low or high):
            raise ValueError(f"trait {self.trait} needs either equals or in, and no bound")
        if self.trait is None and (values or not (low or high)):
            raise ValueError("expected at_least, at_most, above or below, and neither equals nor in")
        if low and high and max(low) > min(high):
            raise ValueError(f"no number is above {max(low):g} and below {min(high):g}")
        return self


Conditions = Annotated[list[Condition], Field(min_length=1)]


class Rule(Section):
    """A segment: users who fulfill every condition of `all` and at least one of `any`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    all: Conditions | None = None
    any: Conditions | None = None

    @model_validator(mode="after")
    def _has_conditions(self) -> Rule:
        if self.all is None and self.any is None:
            raise ValueError(f"segment {self.name} has no conditions; expected all or any")
        return self


class SegmentRules(Section):
    rules: list[Rule]

    @field_validator("rules")
    @classmethod
    def _has_distinct_names(cls, rules: list[Rule]) -> list[Rule]:
        names = [rule.name for rule in rules]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two segments are called {repeated[0]}")
        return rules

    def plain(self) -> list[dict]:
        """The rules as JSON values, for `features.segment_rules`."""
        return [rule.model_dump(exclude_none=True, by_alias=True) for rule in self.rules]


# Training and tuning


class Train(Section):
    seed: NonNegativeInt
    early_stopping_cases: Count
    validation_cases: Count
    eval_batch_size: Count
    models: dict[str, ModelSection]  # typed by `training.model_factory`


class Tune(Section):
    model: str
    trials: Count
    seconds: Positive  # no trial starts later
    objectives: Annotated[list[Literal["accuracy", "diversity", "latency"]], Field(min_length=1)]
    max_steps: Count | None  # per trial; None: the model's own
    folds: Count  # windows to score a trial on, each as long as the validation window, which is the last
    spaces: dict[str, dict[str, Space]]  # label -> hyperparameter -> search space

    @model_validator(mode="after")
    def _accuracy_first(self) -> Tune:
        if self.objectives[0] != "accuracy" or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives are {', '.join(self.objectives)}; expected accuracy first, which selects the trial, and "
                "each only once"
            )
        return self


class ExperimentBudget(Section):
    baseline_trials: Count  # at most, per baseline: the rest of the time is for networks
    max_steps: Count  # of every network, unless train.models has less
    max_epochs: Count


# Evaluation


class Evaluate(Section):
    k: list[Annotated[int, Field(ge=1, le=100)]]  # rankings keep 100 ids; 10 is always measured
    resamples: Annotated[int, Field(ge=100)]


class Sensitivity(Section):
    models: list[str]  # fitted if the command names none; models that train.models lacks are skipped
    rolling_windows: NonNegativeInt  # before the validation window, each as long
    folds: Annotated[int, Field(ge=2)]  # of users, and of sessions
    session_minutes: Count  # a pause this long ends a session, if the data names no sessions
    cases: Count  # sampled once for each protocol


class Audit(Section):
    session_minutes: Count  # a pause this long ends a session, if the data names no sessions
    first_items: Count  # items whose trends are checked before their first event
    tied_cases: Count  # cases with ties, encoded as a model reads them
    training_questions: Count  # of a network's first batches, checked as the network gets them
    travelled_cases: Count  # per target, computed with and without everything from their moment on
    probed_cases: Annotated[int, Field(ge=2)]  # of `next_item`, from which the target probe makes pairs
    probe_alpha: Annotated[float, Field(gt=0, lt=0.05)]  # false alarm rate of the probe over all features of a cut
    too_good: Annotated[float, Field(gt=0.5, lt=1)]  # share of pairs that no honest context column or trait wins
    examples: Count  # rows that a finding shows


class Skew(Section):
    answers: Count  # sampled from the served log


# Gate and retraining


class GuardRails(Section):
    """How far a candidate's lists of 10 may be from the champion's, as ratios to the champion's value."""

    coverage: Annotated[float, Field(ge=0, le=1)]  # minimum, of the share of the catalog shown to anyone
    diversity: Annotated[float, Field(ge=0, le=1)]  # minimum, of 1 - mean cosine of the content within a list
    popularity_lift: Annotated[float, Field(ge=1)]  # maximum, of events per shown item over events per item


class Budgets(Section):
    """What a candidate's artifact may cost."""

    size_mb: Positive  # all its files, 10^6 bytes
    latency_ms: Positive  # median response: one thread, this process, no server
    latency_ratio: Annotated[float, Field(ge=1)]  # latency over the champion's ...
    latency_free_ms: Annotated[float, Field(ge=0)]  # ... which does not matter below this latency


class Gate(Section):
    version: Count  # of this policy: raise it with every change, so that people can refer to it
    primary: Literal["next_item", "horizon"]  # the target on which the candidate must be better
    alpha: Annotated[float, Field(gt=0, le=0.2)]  # one-sided, divided by the looks at the holdout
    margin: Fraction  # how much worse, relatively, the other target may be
    power: Share  # of the number of users that a report recommends
    min_users: Count  # per target; fewer decide nothing
    resamples: Annotated[int, Field(ge=200)]  # of the gate's bootstrap
    segment_margin: Fraction  # no segment may be shown to lose more than this, relatively
    segment_min_users: Count  # smaller segments are reported, not tested; cold users are always tested
    guard_rails: GuardRails
    budgets: Budgets
    max_age_days: Positive | None  # age of the newest event when the gate runs; None: any
    min_index_recall: Share  # of the exact best 20, as measured at export
    min_match_rate: Share  # of served features with the dataset's, as measured by skew; below it there is no verdict
    refit: bool  # also fit the champion's configuration on the candidate's data, to separate idea from fresher data


class ErrorRates(Section):
    looks: Count  # simulated at each point that shows an error rate
    power_looks: Count  # simulated at each point that shows power
    users: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=2)]  # of a simulated holdout
    effects: list[Annotated[float, Field(gt=0, le=1)]]  # true relative gains whose power is drawn
    detectable: Annotated[float, Field(gt=0, le=1)]  # the one of them that gate.min_users lets the gate detect


class Retrain(Section):
    candidate: str  # label in train.models of the challenger, if the command names none
    refit: Literal["gated", "full"]  # what serves after PROMOTE: the gated version, or a refit of it on all events
    refit_requests: Count  # newest requests for the comparison of a refit with its parent
    refit_overlap: Fraction  # minimum mean share of the parent's 10 items in the refit's list


# Serving


class ListLimit(Section):
    field: str  # an item column: genres, or another one of the side table
    value: str
    items: NonNegativeInt  # maximum in a list


class Index(Section):
    # auto: faiss for a catalog with more than `above` items, if the model's scores are products
    kind: Literal["auto", "exact", "faiss"]
    above: Count
    candidates: Annotated[int, Field(ge=20)]  # retrieved for a request, then scored exactly
    recall: Annotated[float, Field(gt=0, le=1)]  # of the exact best 20, to be reached at export
    requests: Annotated[int, Field(ge=16)]  # before the cut, to measure the recall on


class Serve(Section):
    diversity: Fraction  # weight of the difference from the items above; 0 keeps the order of scores
    at_most: list[ListLimit]
    index: Index


class RolloutLimits(Section):
    # Probability that one step rolls back a version as good as the champion
    alpha: Annotated[float, Field(gt=0, le=0.1)]
    error_excess: Fraction  # how much its error rate may exceed the champion's
    p99_ratio: Annotated[float, Field(ge=1)]  # of its calls over the champion's
    overlap: Fraction  # minimum mean share of the champion's list in its list


class Rollout(Section):
    shadow_share: Share  # of the champion's fresh requests, also sent to the candidate, whose response is discarded
    shadow_seconds: Annotated[float, Field(ge=0)]
    shadow_requests: Count  # compared before the candidate serves anyone
    canary: list[Share]  # of the users, step by step
    bake_seconds: Annotated[float, Field(ge=0)]  # per step
    min_requests: Count  # served by the candidate in each step, and by either side before p99 is compared
    limits: RolloutLimits

    @model_validator(mode="after")
    def _increases(self) -> Rollout:
        if self.canary != sorted(set(self.canary)):
            raise ValueError(f"canary is {self.canary}; expected increasing shares")
        return self


class Params(Section):
    """All of params.yaml."""

    dataset: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    seed: NonNegativeInt
    simulate: Simulate
    ingest: Ingest
    split: Split
    featurize: Featurize
    segments: SegmentRules
    online: Online
    train: Train
    evaluate: Evaluate
    serve: Serve
    tune: Tune
    experiment: ExperimentBudget
    sensitivity: Sensitivity
    audit: Audit
    skew: Skew
    error_rates: ErrorRates
    retrain: Retrain
    gate: Gate
    rollout: Rollout

    @model_validator(mode="after")
    def _spaces_belong_to_models(self) -> Params:
        for label in self.tune.spaces:
            if label not in self.train.models:
                raise ValueError(f"tune.spaces names the model {label}, which train.models does not hold")
        return self


class ParamsError(UserError):
    """params.yaml is invalid. The message names the key, the value and the bound."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses repeated keys, of which YAML would silently drop all but the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"found duplicate key {key!r}")
        return super().construct_mapping(node, deep)


def load(path: Path | str = "params.yaml") -> Params:
    """Read and validate params.yaml. Raises ParamsError with one line per error, see `describe_errors`."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; run from the project's root") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not text in UTF-8: {error}") from None
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError("\n".join(describe_errors(error, path))) from None


def describe_errors(error: ValidationError, path: Path, inside: tuple[str, ...] = ()) -> list[str]:
    """One sentence per fault of a file: `params.yaml: split.test_quantile is 1.2; input should be less than 1`.

    Args:
        inside: keys of the section that was validated, where that is not the whole file.
    """
    sentences = []
    for fault in error.errors():
        keys = [*inside, *fault["loc"]]
        if keys[:2] == ["tune", "spaces"]:
            del keys[4:5]  # Pydantic inserts the kind of search space, which is not a key of the file
        key = ".".join(map(str, keys))
        if fault["type"] == "value_error":  # raised by a validator of ours, whose message names the value itself
            sentences.append(f"{path.name}: {f'{key}: ' if key else ''}{fault['ctx']['error']}")
        else:
            sentences.append(f"{path.name}: {describe_error(key or 'the file', fault)}")
    return sentences
