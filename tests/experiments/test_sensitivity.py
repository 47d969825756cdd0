"""The command fits the models that exist and writes the card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_pipeline import inside

from config import params
from config.command import UserError
from config.paths import ROOT
from experiments import sensitivity

SETTINGS = params.load(ROOT / "params.yaml")


def test_labels_that_params_lack_are_left_out_of_the_default_and_refused_when_named() -> None:
    models = {label: SETTINGS.train.models[label] for label in ("popularity", "ease")}
    settings = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"models": models})})

    assert sensitivity.labels_to_fit(None, settings) == ["popularity", "ease"]
    with pytest.raises(UserError, match=r"--models ials is unknown; expected labels of train.models: popularity, ease"):
        sensitivity.labels_to_fit(["ials", "ease"], settings)
    with pytest.raises(UserError, match="1 models have no order; expected at least 2"):
        sensitivity.labels_to_fit(["ease"], settings)


@pytest.mark.slow
def test_the_verb_writes_the_card_of_a_platform_and_says_where(pipeline: Path, capsys: pytest.CaptureFixture) -> None:
    with inside(pipeline):
        assert sensitivity.main([]) == 0

    written = json.loads((pipeline / "out/experiments/sensitivity.json").read_text())
    assert set(written["models"]) == {"popularity", "popularity_7d", "item_knn", "ease"}
    assert len(written["protocols"]) == 7
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("ranked 4 models by 7 protocols in ")
    assert last.endswith("out/experiments/sensitivity.html")
