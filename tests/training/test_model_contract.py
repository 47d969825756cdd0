"""What every model promises, whoever wrote it: one suite over all registered models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_features import ITEMS, START, checkerboard, recipe, sides, train_settings
from safetensors.torch import load_file, save_file

from config import params
from config.paths import ROOT
from data.columns import DAY, HOUR
from features.encode import Batch, make_batch
from features.feature_files import Features
from features.sequences import InteractionLog, encode_cases, history_ends, next_item_cases
from features.vocabulary import PAD
from serving.artifact import export_artifact
from serving.worker.recommender import Recommender
from serving.worker.request import RequestError, parse
from serving.worker.users import resolve_users
from training.fitting import FitResult, fit
from training.model_factory import sizes_of
from training.models.base import Model, build, models
from training.models.network import Network
from training.models.query import log_trends
from training.models.ranking import exclude, rank

FEATURES = checkerboard()
FITTED: dict[str, FitResult] = {}
NOW = START + 31 * DAY


@pytest.fixture(params=sorted(models()))
def fitted(request: pytest.FixtureRequest) -> FitResult:
    """Each model, fitted once."""
    name = request.param
    if name not in FITTED:
        changes = {"l2": [10.0]} if name == "ease" else {}
        FITTED[name] = fit(recipe(name, **changes), FEATURES, train_settings(), seed=0)
    return FITTED[name]


@pytest.fixture
def model(fitted: FitResult) -> Model:
    return fitted.model.eval()


def batch_of(model: Model, histories: list[list[int]], moments: int = 1, unknown_trends: bool = False) -> Batch:
    """Histories of item rows, one event an hour, the last an hour before NOW."""
    lengths = np.array([len(history) for history in histories])
    items = np.array([item for history in histories for item in history], dtype=np.int64)
    times = [NOW - HOUR * np.arange(len(history), 0, -1) for history in histories]
    at = NOW - DAY * np.arange(moments)[::-1]
    trends = FEATURES.trend_log().at(at, model.channels)
    return make_batch(
        items, np.concatenate([np.empty(0, np.int64), *times]), lengths, np.full(len(histories), NOW),
        np.ones((len(histories), 1)), np.ones((len(histories), 1)),
        np.zeros_like(trends) if unknown_trends else trends,
        np.arange(len(histories)) % moments, model.max_history,
    )  # fmt: skip


@torch.inference_mode()
def scores(model: Model, batch: Batch) -> torch.Tensor:
    return model.scores(batch)[:, 1:]


HISTORIES = [[], [3], [2, 4, 6, 8], list(range(1, 20, 2)), [7, 5]]


@pytest.mark.parametrize("name", ["popularity", "item_knn", "ease", "ials", "sasrec"])
def test_what_others_invented_is_a_baseline(name: str) -> None:
    assert models()[name].baseline, "the gate would put it forward as ours"


def test_scores_are_finite_float32_for_every_case_and_item(model: Model) -> None:
    answer = scores(model, batch_of(model, HISTORIES, moments=2))

    assert answer.shape == (len(HISTORIES), ITEMS)
    assert answer.dtype == torch.float32
    assert torch.isfinite(answer).all()


def test_scores_are_finite_before_anything_happened(model: Model) -> None:
    assert torch.isfinite(scores(model, batch_of(model, HISTORIES, unknown_trends=True))).all()


def test_padding_on_the_left_changes_nothing(model: Model) -> None:
    batch = batch_of(model, HISTORIES)
    blank = torch.zeros(len(HISTORIES), 5, dtype=torch.int64)
    padded = replace(
        batch,
        items=torch.cat([blank, batch.items], dim=1),
        item_times=torch.cat([blank, batch.item_times], dim=1),
    )

    torch.testing.assert_close(scores(model, padded), scores(model, batch), rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_equals_a_batch_of_many(model: Model) -> None:
    together = scores(model, batch_of(model, HISTORIES))

    for row, history in enumerate(HISTORIES):
        alone = scores(model, batch_of(model, [history]))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-4)


def test_some_items_are_scored_as_all_are(model: Model) -> None:
    batch = batch_of(model, HISTORIES, moments=2)
    rows = torch.randint(1, ITEMS + 1, (len(HISTORIES), 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        some, every = model.scores_of(batch, rows), model.scores(batch)

    torch.testing.assert_close(some, every.gather(1, rows), rtol=1e-4, atol=1e-4)


def test_trends_of_several_moments_do_not_mix(model: Model) -> None:
    together = batch_of(model, HISTORIES, moments=3)
    answers = scores(model, together)

    for row, history in enumerate(HISTORIES):
        own = replace(batch_of(model, [history]), trends=together.trends[together.moment[row]][None])
        torch.testing.assert_close(scores(model, own)[0], answers[row], rtol=1e-4, atol=1e-4)


def answers_of_log(model: Model, features: Features, log: InteractionLog, moment: int) -> torch.Tensor:
    """Scores for some users at one moment, through the pipeline that evaluation uses."""
    cases = next_item_cases(features.log, moment, moment + 5 * DAY)
    rows = np.arange(min(20, len(cases)))
    cases.time[:] = moment
    cases.end = history_ends(log, cases.user, cases.time)
    trends = Features(features.vocabulary, log, [], [], features.item_features, features.description).trend_log()
    at = np.full(len(rows), moment)
    return scores(model, encode_cases(log, cases, rows, trends, model.channels, at, model.max_history))


def test_an_event_at_or_after_the_asked_time_changes_nothing(model: Model) -> None:
    log = FEATURES.log
    moment = int(log.times[log.times > START + 32 * DAY].min())  # an event lies exactly on it
    after = log.times >= moment
    other = replace(log, items=np.where(after, 1 + (log.items + 6) % ITEMS, log.items))

    assert (log.times == moment).any()
    before = answers_of_log(model, FEATURES, log, moment)
    assert torch.equal(answers_of_log(model, FEATURES, other, moment), before)


def test_an_event_just_before_the_asked_time_is_read(model: Model) -> None:
    if not model.personal:
        pytest.skip("the same for everybody")
    first, second = scores(model, batch_of(model, [[3, 5, 9], [3, 5, 16]]))

    assert not torch.allclose(first, second)


def test_weights_survive_being_saved(fitted: FitResult, tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in fitted.model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    again = build(fitted.hyperparameters, sizes_of(FEATURES))
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    batch = batch_of(fitted.model, HISTORIES)

    assert torch.equal(scores(again.eval(), batch), scores(fitted.model.eval(), batch))


@pytest.fixture
def served(fitted: FitResult, tmp_path: Path) -> Recommender:
    """The model as a worker would load it."""
    state = {name: tensor.contiguous() for name, tensor in fitted.model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    facts = {"hyperparameters": fitted.hyperparameters, "label": fitted.hyperparameters["name"], "run_id": "none"}
    settings = params.load(ROOT / "params.yaml")
    export_artifact.export_artifact(
        tmp_path / "artifact", tmp_path / "weights.safetensors", facts, FEATURES, settings, sides()
    )
    return Recommender.load(tmp_path / "artifact")


def test_the_exported_model_ranks_as_the_fitted_one(served: Recommender, model: Model) -> None:
    bodies = [entry["request"] for entry in served.golden_cases()]
    requests = [parse(body, NOW) for body in bodies]
    users = resolve_users(requests, served.artifact.config["repeats"], None)
    batch = served.encode(requests, users, served.artifact.trends)
    with torch.inference_mode():
        expected, _ = rank(exclude(model.scores(batch), batch.seen), torch.zeros(2, 0, dtype=torch.int64), 20)

    for body, answer, rows in zip(bodies, served.recommend(bodies), expected.tolist(), strict=True):
        wanted = [served.vocabulary.id(row) for row in rows if row != PAD]
        assert [item["item_id"] for item in answer["items"]] == wanted, body["request_id"]


def test_unknown_users_and_items_and_empty_histories_are_answered(served: Recommender) -> None:
    unknown = {"item_id": "never-seen", "event_time": "2024-10-01T00:00:00Z"}
    bodies = [{"user_id": "nobody", "history": history} for history in ([], [unknown], None)]

    answers = served.recommend(bodies, now_us=NOW)

    assert not any(isinstance(answer, RequestError) for answer in answers)
    lists = [[item["item_id"] for item in answer["items"]] for answer in answers]
    assert [len(ranked) for ranked in lists] == [10, 10, 10]
    assert lists[0] == lists[1] == lists[2], "an unknown item is no history"


@pytest.mark.parametrize("others_in_batch", [[], [0], [15, 3], [2, 5, 8, 11, 14, 1, 4], list(range(16))])
def test_an_answer_is_the_same_to_the_bit_whatever_it_is_batched_with(
    served: Recommender, others_in_batch: list[int]
) -> None:
    bodies = [entry["request"] for entry in served.golden_cases()]
    (alone,) = served.recommend([bodies[7]], now_us=NOW)

    for place in range(len(others_in_batch) + 1):
        others = [bodies[number] for number in others_in_batch]
        found = served.recommend([*others[:place], bodies[7], *others[place:]], now_us=NOW)

        assert found[place] == alone


def test_a_network_reads_histories_of_one_width_however_short(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(model, Network):
        pytest.skip("it multiplies no matrices whose shape the history has")
    widths: list[int] = []
    score_all = model.score_all
    monkeypatch.setattr(model, "score_all", lambda query: widths.append(query.items.shape[1]) or score_all(query))

    for histories in ([[]], [[3]], HISTORIES):
        scores(model, batch_of(model, histories))

    assert widths == [model.max_history] * 3, "another shape may add up in another order"


def test_freezing_changes_no_score(fitted: FitResult) -> None:
    batch = batch_of(fitted.model, HISTORIES)
    frozen = build(fitted.hyperparameters, sizes_of(FEATURES))
    frozen.load_state_dict(fitted.model.state_dict())
    frozen.eval()
    with torch.inference_mode():
        frozen.freeze()

    assert torch.equal(scores(frozen, batch), scores(fitted.model.eval(), batch))


def test_a_frozen_model_takes_no_earlier_batch_for_the_one_it_is_asked(fitted: FitResult) -> None:
    """It records what it computes of the first, and runs the record for the others."""
    plain, frozen = fitted.model.eval(), build(fitted.hyperparameters, sizes_of(FEATURES))
    frozen.load_state_dict(plain.state_dict())
    frozen.eval()
    with torch.inference_mode():
        frozen.freeze()
    for shift in range(6):
        histories = [[1 + (item + shift) % ITEMS for item in history] for history in HISTORIES]
        batch = batch_of(plain, histories[shift % 3 :] + histories[: shift % 3], moments=1)
        batch.time += shift * 5_000_000_000
        batch.log_trends = log_trends(batch.trends) if plain.channels else None

        assert torch.equal(scores(frozen, batch), scores(plain, batch)), shift
        if plain.searchable:
            with torch.inference_mode():
                found, expected = (model.factored(batch) for model in (frozen, plain))
            assert all(map(torch.equal, [*found[0], found[1]], [*expected[0], expected[1]])), shift


def test_no_length_of_history_has_a_record_of_its_own(fitted: FitResult) -> None:
    """Recording takes ten times as long as an answer: all of it belongs to the warm-up."""
    frozen = build(fitted.hyperparameters, sizes_of(FEATURES)).eval()
    with torch.inference_mode():
        frozen.freeze()
    networks = [module for module in frozen.modules() if isinstance(module, Network)]
    counts = []
    for length in (1, 2, 5):
        batch = batch_of(frozen, [list(range(1, 1 + length)), []], moments=1)
        batch.log_trends = log_trends(batch.trends) if frozen.channels else None
        scores(frozen, batch)
        counts.append([len(network.graphs["score_all"].records) for network in networks])

    assert counts == [[1] * len(networks)] * 3
    assert networks or not isinstance(frozen, Network)


def test_it_learns_the_checkerboard(model: Model) -> None:
    if not model.personal:
        pytest.skip("the same for everybody")
    rng = np.random.default_rng(1)
    parity = [number % 2 for number in range(20)]
    histories = [(1 + rng.permutation(np.arange(side, ITEMS, 2))[:6]).tolist() for side in parity]
    batch = batch_of(model, histories)
    with torch.inference_mode():
        top = exclude(model.scores(batch), batch.seen).topk(10, dim=1).indices - 1

    right = (top % 2 == torch.tensor(parity)[:, None]).float().mean()
    assert right > 0.9, "users whom no model has seen must get items of their own colour"
