"""The report ranks models by protocol and compares the orders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from small_pipeline import inside

from config import params
from config.command import UserError
from config.paths import ROOT
from experiments import sensitivity
from experiments.sensitivity import compare_orders, markdown_report

SETTINGS = params.load(ROOT / "params.yaml")


def reached(**by_model: list[float]) -> pd.DataFrame:
    """NDCG@10 of models on four cases of three users."""
    return pd.DataFrame({"user": [0, 0, 1, 2], **by_model})


MEASURED = {
    "next_item": reached(b=[0, 0, 1, 0], a=[1, 1, 1, 1], c=[0, 0, 0, 0]),
    "horizon": reached(b=[1, 1, 1, 1], a=[0, 0, 0, 0], c=[0, 1, 0, 0]),
    "leave last out": reached(b=[0, 1, 0, 0], a=[0, 0, 0, 0], c=[1, 1, 1, 1]),
}


def test_models_have_mean_and_rank_by_protocol_in_the_order_of_the_first() -> None:
    models = compare_orders(MEASURED)["models"]

    assert list(models) == ["a", "b", "c"]
    assert models["b"]["next_item"] == {"mean": 1 / 4, "rank": 2}
    assert [models[label]["leave last out"]["rank"] for label in "abc"] == [3, 2, 1]


def test_equals_share_the_better_rank() -> None:
    models = compare_orders({"next_item": reached(a=[0] * 4, b=[1] * 4, c=[1] * 4)})["models"]

    assert [models[label]["next_item"]["rank"] for label in "abc"] == [3, 1, 1]


def test_tau_compares_each_order_with_both_targets_of_the_temporal_cut() -> None:
    protocols = compare_orders(MEASURED)["protocols"]

    assert protocols["next_item"]["tau"]["next_item"] == 1
    assert protocols["leave last out"]["tau"]["next_item"] == -1  # c, b, a against a, b, c
    assert protocols["leave last out"]["tau"]["horizon"] == pytest.approx(1 / 3)  # c, b, a against b, c, a


def test_a_protocol_without_cases_is_left_out_and_an_undefined_tau_is_none() -> None:
    found = compare_orders(
        MEASURED | {"horizon": reached(a=[0] * 4, b=[0] * 4, c=[0] * 4), "user k-fold": MEASURED["horizon"][:0]}
    )

    assert set(found["protocols"]) == set(MEASURED)
    assert found["protocols"]["next_item"]["tau"]["horizon"] is None
    json.dumps(found, allow_nan=False)


def test_the_page_marks_what_is_only_a_diagnostic() -> None:
    known = {"dataset": "shop", "dataset_hash": "h", "split_id": "s", "test_start": "t"}
    text = markdown_report(known | {"commit": "c", "date": "d", "command": "x"} | compare_orders(MEASURED))

    assert "every other protocol is a diagnostic" in text
    assert "| b | 0.2500 (2) | 1.0000 (1) | 0.2500 (2) |" in text


def test_labels_that_params_lack_are_left_out_of_the_default_and_refused_when_named() -> None:
    models = {label: SETTINGS.train.models[label] for label in ("popularity", "ease")}
    settings = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"models": models})})

    assert sensitivity.labels_to_fit(None, settings) == ["popularity", "ease"]
    with pytest.raises(UserError, match=r"--models ials is unknown; expected labels of train.models: popularity, ease"):
        sensitivity.labels_to_fit(["ials", "ease"], settings)
    with pytest.raises(UserError, match="1 models have no order; expected at least 2"):
        sensitivity.labels_to_fit(["ease"], settings)


@pytest.mark.slow
def test_the_command_writes_the_report_and_prints_its_path(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with inside(shutil.copytree(pipeline, tmp_path / "copy")) as copy:
        assert sensitivity.main([]) == 0

    written = json.loads((copy / "out/experiments/sensitivity.json").read_text(encoding="utf-8"))
    assert set(written["models"]) == {"popularity", "popularity_7d", "item_knn", "ease"}
    assert len(written["protocols"]) == 7
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("ranked 4 models by 7 protocols in ")
    assert last.endswith("out/experiments/sensitivity.md")
