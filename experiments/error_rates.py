"""Simulate how often the gate errs and how many users it needs: holdouts with a known truth, judged as real ones are.

The users of a simulated holdout are drawn with replacement from those of two real rankings. The candidate's gains are
shifted until its true effect is the wanted one; how users differ stays as it is.

Legend: U users of a holdout, T targets, S simulated looks, R resamples.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS, METRICS, RANKINGS
from data.pages import MISSING, markdown_table, sentence
from experiments.evaluation import bootstrap
from experiments.evaluation.cases import HEADLINE, TARGETS, align_cases, same_cases, true_ranks
from experiments.evaluation.comparison import MeasuredModel, best_on_validation, read_metrics
from experiments.gating import verdict
from training import provenance
from training.metrics import ndcg

RESULTS = Path("experiments/results/error_rates")
MAX_ERROR = 0.05  # for either error; gate.alpha is chosen so that it holds
BATCH = 200  # looks that share their resamples; each batch draws its own
CERTAIN = 0.5  # an effect on the primary target that the gate never misses, so that the other target decides
SEEDS, MODELS = "seeds", "models"  # kinds of pairs: one model under two seeds, or two models

# The true effect of a simulated candidate.
EQUAL = "equal on average"
AS_MEASURED = "as measured"
WORSE = "better on the primary target, worse by the margin on the other"
BETTER = "better on both targets"
PRIMARY_ONLY = "better on the primary target only"


@dataclass(frozen=True)
class Population:
    """Sums over each user's cases of NDCG@10, which is all that a mean over cases needs.

    Attributes:
        gain: (U, T) candidate minus champion.
        base: (U, T) champion.
        count: (U, T) cases.
    """

    gain: np.ndarray
    base: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.gain)

    @classmethod
    def of(cls, champion: pd.DataFrame, candidate: pd.DataFrame) -> Population:
        """From two tables of rankings. Raises UserError if they rank different cases, or a target has none."""
        tables, users = [], set()
        for target in TARGETS:
            (theirs,), (ours,) = align_cases([champion], target), align_cases([candidate], target)
            if not len(theirs) or not same_cases(theirs, ours):
                raise UserError(f"the two rankings hold {'different' if len(theirs) else 'no'} {target} cases")
            base = ndcg(true_ranks(theirs), HEADLINE)
            values = np.stack([ndcg(true_ranks(ours), HEADLINE) - base, base, np.ones(len(theirs))], axis=1)
            tables.append(pd.DataFrame(values).groupby(theirs["user_id"].to_numpy(str)).sum())
            users |= set(tables[-1].index)
        stacked = np.stack([table.reindex(sorted(users), fill_value=0.0).to_numpy() for table in tables], axis=1)
        return cls(*np.moveaxis(stacked, 2, 0))

    @property
    def effect(self) -> np.ndarray:
        """(T,) relative difference of candidate and champion over all users."""
        return self.gain.sum(axis=0) / self.base.sum(axis=0)

    def with_effect(self, effect: Sequence[float]) -> Population:
        """The same users with exactly this relative difference per target.

        Each user's deviation from the mean gain stays, so that the noise is that of two real models.
        """
        return replace(self, gain=self.gain + (np.asarray(effect) - self.effect) * self.base)


def simulate_pair(population: Population, kind: str, settings: params.Params) -> list[dict]:
    """Points of one pair: for each number of users and true effect, how often each verdict came."""
    chosen, policy = settings.error_rates, settings.gate
    other = next(target for target in TARGETS if target != policy.primary)
    truths: list[tuple[str, dict[str, float]]] = [(EQUAL, dict.fromkeys(TARGETS, 0.0))]
    if kind == MODELS:
        truths.append((WORSE, {policy.primary: CERTAIN, other: -policy.margin}))
        truths += [(BETTER, dict.fromkeys(TARGETS, effect)) for effect in chosen.effects]
        truths += [(PRIMARY_ONLY, {policy.primary: effect, other: 0.0}) for effect in chosen.effects]
    worlds = [(what, effect, population.with_effect([effect[t] for t in TARGETS])) for what, effect in truths]
    if kind == SEEDS:
        worlds.append((AS_MEASURED, dict(zip(TARGETS, population.effect.tolist(), strict=True)), population))
    points = []
    for what, effect, world in worlds:
        looks = chosen.power_looks if what in (BETTER, PRIMARY_ONLY) else chosen.looks
        for users in chosen.users:
            verdicts = simulate_verdicts(world, users, looks, policy, policy.resamples, settings.seed)
            points.append({"what": what, "effect": effect, "users": users, "looks": looks, "verdicts": dict(verdicts)})
    return points


def simulate_verdicts(
    population: Population, users: int, looks: int, policy: params.Gate, resamples: int, seed: int
) -> Counter[str]:
    """Count the verdicts of first looks at this many holdouts of this many users."""
    rng = np.random.default_rng([seed, users])
    verdicts: Counter[str] = Counter()
    for begin in range(0, looks, BATCH):
        weights = np.concatenate(list(bootstrap.resample_weights(users, resamples, int(rng.integers(2**31)))))
        drawn = rng.integers(0, len(population), (users, min(BATCH, looks - begin)))
        verdicts.update(judge_looks(population, drawn, weights, policy))
    return verdicts


def judge_looks(population: Population, drawn: np.ndarray, weights: np.ndarray, policy: params.Gate) -> list[str]:
    """The verdict of each look.

    Args:
        drawn: (U, S) the user that takes each place of each holdout.
        weights: (R, U) how often each place is drawn by each resample.
    """
    gain, base, count = (part[drawn] for part in (population.gain, population.base, population.count))  # (U, S, T)
    whole = [part.sum(axis=0) for part in (gain, base, count)]  # (S, T)
    resampled = [np.tensordot(weights, part, axes=1) for part in (gain, base, count)]  # (R, S, T)
    level = verdict.interval_level(policy, 1)
    tails = [(1 - level) / 2, (1 + level) / 2]
    with np.errstate(divide="ignore", invalid="ignore"):  # a champion may hit nothing in a holdout
        columns = {
            prefix + name: values
            for prefix, under in (("", 2), ("relative_", 1))
            for name, values in zip(
                ("difference", "low", "high"),
                (whole[0] / whole[under], *np.quantile(resampled[0] / resampled[under], tails, axis=0)),
                strict=True,
            )
        }
    columns["relative"] = columns.pop("relative_difference")
    users = (count > 0).sum(axis=0)
    policy = policy.model_copy(update={"min_users": 1})  # the question is what so few users would bring
    return [
        verdict.decide_against(
            {
                target: {"users": int(users[look, at])} | {key: float(part[look, at]) for key, part in columns.items()}
                for at, target in enumerate(TARGETS)
            },
            policy,
        ).verdict
        for look in range(drawn.shape[1])
    ]


def promoted_shares(facts: dict) -> pd.DataFrame:
    """Share of holdouts whose candidate is promoted: a row for each number of users, a column for each true effect.

    Points of several pairs of one kind are pooled.
    """
    points = pd.DataFrame(
        {
            "truth": _truth(pair["kind"], point),
            "users": point["users"],
            "looks": point["looks"],
            "promoted": point["verdicts"].get(verdict.PROMOTE, 0),
        }
        for pair in facts["pairs"]
        for point in pair["points"]
    )
    counts = points.groupby(["users", "truth"]).sum()
    return (counts["promoted"] / counts["looks"]).unstack()[points["truth"].unique()]


def _truth(kind: str, point: dict) -> str:
    if point["what"] in (BETTER, PRIMARY_ONLY):
        return f"{max(point['effect'].values()):+.0%}, {point['what']}"
    return f"{kind}: {point['what']}"


def _error_columns(shares: pd.DataFrame) -> list[str]:
    """The columns of candidates that must not be promoted: equal ones (of seeds where there are several), worse ones."""
    equal = next(column for column in (f"{SEEDS}: {EQUAL}", f"{MODELS}: {EQUAL}") if column in shares)
    return [equal, f"{MODELS}: {WORSE}"]


def min_users(facts: dict) -> int | None:
    """The smallest simulated number of users from which on both errors are at most MAX_ERROR and power is reached."""
    shares = promoted_shares(facts)
    powerful = shares[f"{facts['settings']['detectable']:+.0%}, {BETTER}"] >= facts["policy"]["power"]
    holds = (shares[_error_columns(shares)] <= MAX_ERROR).all(axis=1) & powerful
    users = shares.index[holds[::-1].cummin()[::-1]]
    return int(users.min()) if len(users) else None


def conclusion(facts: dict) -> str:
    """The result in one sentence."""
    detectable, least = facts["settings"]["detectable"], facts["min_users"]
    if least is None:
        return f"no simulated number of users keeps both errors at {MAX_ERROR:.0%} and detects {detectable:+.0%}"
    shares = promoted_shares(facts).loc[least:]
    equal, worse = shares[_error_columns(shares)].max()
    return (
        f"from {least:,} users on, the gate promotes equal candidates in at most {equal:.1%} of holdouts, candidates that "
        f"are worse by the margin in at most {worse:.1%} (limit: {MAX_ERROR:.0%}), and candidates that are "
        f"{detectable:+.0%} on both targets in at least {facts['policy']['power']:.0%}"
    )


def markdown(facts: dict) -> str:
    """The page: the question, the results and their provenance."""
    policy, chosen, shares = facts["policy"], facts["settings"], promoted_shares(facts)
    models = ", ".join(pair["pair"] for pair in facts["pairs"] if pair["kind"] == MODELS)
    rows = [
        {"true effect": truth}
        | {f"{users:,} users": MISSING if np.isnan(share) else f"{share:.1%}" for users, share in column.items()}
        for truth, column in shares.items()
    ]
    parts = [
        f"# Error rates of the gate on {facts['dataset']}",
        f"**{sentence(conclusion(facts))}.**",
        f"Each row is a true effect, each number the share of simulated holdouts that promote ({chosen['looks']:,} "
        f"holdouts of each pair, {chosen['power_looks']:,} for better candidates). The users of a holdout are drawn with "
        f"replacement from two real rankings of the test period: of one model under two seeds, or of two models "
        f"({models}). The candidate's gains are shifted in proportion to the champion's scores until its true effect is the "
        f"one of the row; how users differ stays as it is. Each holdout is judged as the gate judges: paired bootstrap by "
        f"user, superiority on `{policy['primary']}` at alpha {policy['alpha']}, a loss of at most {policy['margin']:.0%} on "
        "the other target. The gate's other checks (baseline, segments, guard rails) can only promote less.",
        markdown_table(rows),
        f"By `{facts['command']}`, seed {facts['seed']}, split {facts['split_id']}, commit {facts['commit']}, "
        f"{facts['date']}.",
    ]
    return "\n\n".join(parts) + "\n"


def rankings_to_compare(labels: list[str]) -> Iterator[tuple[str, str, Path, Path]]:
    """(name, kind, champion's rankings, candidate's): the first label under each two seeds, then against the others."""
    first, *others = labels
    by_seed = sorted(
        (EXPERIMENTS / "seeds").glob(f"[0-9]*/rankings/{first}.parquet"), key=lambda path: int(path.parts[-3])
    )
    for theirs, ours in permutations(by_seed, 2):
        yield f"{first}, seed {ours.parts[-3]} against {theirs.parts[-3]}", SEEDS, theirs, ours
    for other in others:
        yield f"{first} against {other}", MODELS, RANKINGS / f"{other}.parquet", RANKINGS / f"{first}.parquet"


def choose_labels(named: list[str] | None, measured: list[MeasuredModel]) -> list[str]:
    """The candidate first. Default: the best learned model and the best baseline on validation."""
    known = [model.label for model in measured]
    for label in named or []:
        if label not in known:
            raise UserError(f"--models {label}: {METRICS} holds {', '.join(known)}")
    best = [best_on_validation(measured, learned) for learned in (True, False)]
    labels = named or [label for label in best if label is not None]
    if len(labels) < 2:
        raise UserError("error_rates needs a learned model and a baseline, or two --models; evaluate both first")
    return labels


def measure(settings: params.Params, labels: list[str], split_id: str) -> dict:
    """All results as plain data."""
    pairs = []
    for name, kind, theirs, ours in rankings_to_compare(labels):
        begin = time.monotonic()
        population = Population.of(pd.read_parquet(theirs), pd.read_parquet(ours))
        points = simulate_pair(population, kind, settings)
        pairs.append({"pair": name, "kind": kind, "users": len(population), "points": points})
        print(f"simulated {name} in {time.monotonic() - begin:.1f} s: {len(population):,} users", flush=True)
    facts = {
        "dataset": settings.dataset,
        "split_id": split_id,
        "labels": labels,
        "pairs": pairs,
        "policy": settings.gate.model_dump(),
        "settings": settings.error_rates.model_dump(),
        "seed": settings.seed,
        "commit": provenance.commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": f"python -m experiments.error_rates --models {' '.join(labels)}",
    }
    return facts | {"min_users": min_users(facts)}


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.error_rates", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="LABEL", help="the candidate, then its opponents")
    arguments = parser.parse_args(argv)
    settings = params.load()
    measured = read_metrics(METRICS, settings.dataset)
    facts = measure(settings, choose_labels(arguments.models, measured), measured[0].split_id)
    RESULTS.mkdir(parents=True, exist_ok=True)
    stem = RESULTS / settings.dataset
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(facts), encoding="utf-8")
    print(f"{conclusion(facts)}; report: {stem}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
