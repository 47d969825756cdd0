"""Simulate how often the gate errs: holdouts with a known truth, judged as real ones are.

The users of a simulated holdout are drawn with replacement from those of two real rankings. The candidate's gains are
shifted until its true effect is the wanted one; how users differ stays as it is.

Legend: U users of a holdout, T targets, S simulated looks, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from config import params
from config.command import UserError
from experiments.evaluation import bootstrap
from experiments.evaluation.cases import HEADLINE, TARGETS, align_cases, same_cases, true_ranks
from experiments.gating import verdict
from experiments.pages import markdown_table, sentence
from training.metrics import ndcg

MAX_ERROR = 0.05  # for either error; gate.alpha is chosen so that it holds
BATCH = 200  # looks that share their resamples; each batch draws its own
CERTAIN = 0.5  # an effect on the primary target that the gate never misses, so that the other target decides
SEEDS, MODELS = "seeds", "models"  # kinds of pairs: one model under two seeds, or two models

# What a simulated candidate truly is.
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
        """From two tables of rankings of the same cases.

        Raises:
            UserError: they rank different cases, or a target has none.
        """
        tables, users = [], set()
        for target in TARGETS:
            (theirs,), (ours,) = align_cases([champion], target), align_cases([candidate], target)
            if not len(theirs) or not same_cases(theirs, ours):
                raise UserError(f"the two rankings hold {'different' if len(theirs) else 'no'} {target} cases")
            base = _ndcg(theirs)
            values = np.stack([_ndcg(ours) - base, base, np.ones(len(theirs))], axis=1)
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


def _ndcg(table: pd.DataFrame) -> np.ndarray:
    return ndcg(true_ranks(table), HEADLINE)


# --- simulation


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


# --- reading the points


def promoted_share(point: dict) -> float:
    return point["verdicts"].get(verdict.PROMOTE, 0) / point["looks"]


def points_of_kind(facts: dict, kind: str, what: str) -> list[dict]:
    """The points of all pairs of a kind."""
    return [
        point for pair in facts["pairs"] if pair["kind"] == kind for point in pair["points"] if point["what"] == what
    ]


def error_points(facts: dict, what: str) -> list[dict]:
    """The points of candidates that must not be promoted: of seeds where there are several, else of models."""
    return points_of_kind(facts, SEEDS, what) or points_of_kind(facts, MODELS, what)


def pool(points: Iterable[dict]) -> list[dict]:
    """Points of several pairs as one for each number of users."""
    pooled: dict[int, dict] = {}
    for point in points:
        into = pooled.setdefault(point["users"], {"users": point["users"], "looks": 0, "verdicts": Counter()})
        into["looks"] += point["looks"]
        into["verdicts"].update(point["verdicts"])
    return [pooled[users] for users in sorted(pooled)]


def power_curve(points: Iterable[dict], what: str, effect: float) -> list[tuple[int, float]]:
    """(users, share promoted) of a true effect on the primary target, by users."""
    return sorted(
        (point["users"], promoted_share(point))
        for point in points
        if point["what"] == what and max(point["effect"].values()) == effect
    )


def users_for_power(points: Iterable[dict], what: str, effect: float, power: float) -> int | None:
    """The smallest simulated number of users from which on the effect is promoted with this power; None if none is."""
    return _holds_from([(users, share >= power) for users, share in power_curve(points, what, effect)])


def users_for_error(points: Iterable[dict], max_error: float) -> int | None:
    """The smallest simulated number of users from which on no point errs more often; None if the largest does."""
    return _holds_from(sorted((point["users"], promoted_share(point) <= max_error) for point in points))


def _holds_from(by_users: Sequence[tuple[int, bool]]) -> int | None:
    reached = None
    for users, holds in reversed(by_users):
        if not holds:
            break
        reached = users
    return reached


def first_models(facts: dict) -> dict:
    """The pair of models that the power is read from."""
    return next(pair for pair in facts["pairs"] if pair["kind"] == MODELS)


def min_users(facts: dict) -> int | None:
    """The smallest simulated number of users that keeps both errors at MAX_ERROR and detects the wanted effect."""
    found = [
        users_for_error(pool(error_points(facts, EQUAL)), MAX_ERROR),
        users_for_error(pool(error_points(facts, WORSE)), MAX_ERROR),
        users_for_power(
            first_models(facts)["points"], BETTER, facts["settings"]["detectable"], facts["policy"]["power"]
        ),
    ]
    return None if None in found else max(filter(None, found))


# --- the page


def conclusion(facts: dict) -> str:
    """The result in one sentence."""
    detectable, least = facts["settings"]["detectable"], facts["min_users"]
    if least is None:
        return f"no simulated number of users keeps both errors at {MAX_ERROR:.0%} and detects {detectable:+.0%}"
    equal, worse = (
        max(promoted_share(point) for point in pool(error_points(facts, what)) if point["users"] >= least)
        for what in (EQUAL, WORSE)
    )
    return (
        f"from {least:,} users on, the gate promotes equal candidates in at most {equal:.1%} of holdouts, candidates that "
        f"are worse by the margin in at most {worse:.1%} (limit: {MAX_ERROR:.0%}), and candidates that are "
        f"{detectable:+.0%} on both targets in at least {facts['policy']['power']:.0%}"
    )


def markdown(facts: dict) -> str:
    """The page: the question, the results and their provenance."""
    policy, chosen = facts["policy"], facts["settings"]
    models = ", ".join(pair["pair"] for pair in facts["pairs"] if pair["kind"] == MODELS)
    tables = {
        "One configuration under two seeds, equal on average": points_of_kind(facts, SEEDS, EQUAL),
        "One configuration under two seeds, as measured": points_of_kind(facts, SEEDS, AS_MEASURED),
        f"Different models, equal on average ({models})": points_of_kind(facts, MODELS, EQUAL),
        sentence(WORSE): points_of_kind(facts, MODELS, WORSE),
    }
    lines = [
        f"# Error rates of the gate on {facts['dataset']}", "", f"**{sentence(conclusion(facts))}.**", "",
        f"![Share promoted by users and true effect]({facts['dataset']}.svg)", "",
        f"Each point is {chosen['looks']:,} simulated holdouts. Their users are drawn with replacement from two real "
        "rankings of the test period. The candidate's gains are shifted in proportion to the champion's scores until its "
        "true effect is the stated one; how users differ stays as it is. Each holdout is judged as the gate judges: paired "
        f"bootstrap by user, superiority on `{policy['primary']}` at alpha {policy['alpha']}, a loss of at most "
        f"{policy['margin']:.0%} on the other target. The gate's other checks (baseline, segments, guard rails) can only "
        "promote less.", "",
    ]  # fmt: skip
    for title, points in tables.items():
        if points:
            rows = [
                {
                    "users": f"{one['users']:,}",
                    "holdouts": f"{one['looks']:,}",
                    "promoted": f"{promoted_share(one):.1%}",
                }
                for one in pool(points)
            ]
            lines += [f"## {title}", "", markdown_table(rows), ""]
    pair, power = first_models(facts), policy["power"]
    lines += [f"## Users needed to promote {power:.0%} of better candidates ({pair['pair']})", ""]
    lines += [markdown_table([_power_row(pair["points"], effect, facts) for effect in chosen["effects"]]), ""]
    origin = f"seed {facts['seed']}, split {facts['split_id']}, commit {facts['commit']}, {facts['date']}"
    return "\n".join([*lines, f"By `{facts['command']}`, {origin}.", ""])


def _power_row(points: list[dict], effect: float, facts: dict) -> dict[str, str]:
    most, row = max(facts["settings"]["users"]), {"true effect": f"{effect:+.0%}"}
    for what in (BETTER, PRIMARY_ONLY):
        users = users_for_power(points, what, effect, facts["policy"]["power"])
        row[what] = f"{users:,}" if users else f"more than {most:,}"
    return row


def write_chart(facts: dict, path: Path) -> None:
    """An SVG of the share promoted by users and true effect; dashed lines gain on the primary target only."""
    from matplotlib import rc_context  # takes a second to import
    from matplotlib.figure import Figure

    pair, primary = first_models(facts), facts["policy"]["primary"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for color, effect in enumerate(facts["settings"]["effects"]):
        for what, style, name in ((BETTER, "-", "both"), (PRIMARY_ONLY, "--", f"{primary} only")):
            users, shares = zip(*power_curve(pair["points"], what, effect), strict=True)
            axes.plot(users, shares, style, color=f"C{color}", label=f"{effect:+.0%} {name}")
    users, shares = zip(*power_curve(pair["points"], EQUAL, 0.0), strict=True)
    axes.plot(users, shares, color="gray", label="equal")
    for level, name in ((MAX_ERROR, "maximum error"), (facts["policy"]["power"], "power")):
        axes.axhline(level, color="firebrick", linestyle=":", linewidth=1)
        axes.annotate(
            f"{name} {level:.0%}", (max(users), level), color="firebrick", ha="right", va="bottom", fontsize=8
        )
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="users in the holdout", ylabel="share promoted")
    figure.suptitle(f"Share of holdouts that promote: {pair['pair']}, {facts['dataset']}")
    axes.set_xticks(list(users), [f"{number:,}" for number in users], minor=False)
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": facts["dataset"]}
    ):  # text as text, the same file each time
        figure.savefig(path, format="svg", metadata={"Date": None})
