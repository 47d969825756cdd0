"""With an index, responses equal those of exact scoring. FAISS is loaded only for an artifact that has an index."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from made_features import ITEMS, checkerboard, recipe, sides, train_settings
from safetensors.torch import save_file

from config import params
from config.paths import ROOT
from data.columns import DAY, HOUR
from features.trends import TrendSnapshot
from features.vocabulary import PAD
from serving.artifact import build_index, export_artifact
from serving.worker import index
from serving.worker.recommender import ArtifactError, Recommender
from training.fitting import FitResult, fit

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

FEATURES = checkerboard(cut="valid")
NOW = FEATURES.cut_us + DAY
RULES = [{"name": "odd", "all": [{"trait": "side", "equals": "1"}]}]
SEARCHED = ["two_tower", "sasrec", "reranker"]
Exported = Callable[..., Recommender]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a worker: with several, the order of a sum depends on the size of the batch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def fitted(name: str) -> FitResult:
    return fit(recipe(name, **({"retrieve": 10} if name == "reranker" else {})), FEATURES, train_settings(), seed=0)


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exported:
    """A model of the checkerboard as a worker loads it; its index has several lists, and few items trend."""
    monkeypatch.setattr(build_index, "POINTS_PER_LIST", 8)
    monkeypatch.setattr(index, "TRENDING", 1)

    def write(name: str = "two_tower", kind: str = "faiss", folder: str = "artifact") -> Recommender:
        state = {key: tensor.contiguous() for key, tensor in fitted(name).model.state_dict().items()}
        save_file(state, tmp_path / "weights.safetensors")
        settings = params.load(ROOT / "params.yaml").model_dump(by_alias=True, exclude_none=False)
        settings["serve"]["index"] |= {"kind": kind, "candidates": 20, "recall": 1.0}
        settings["segments"] = {"rules": RULES}
        facts = {"hyperparameters": fitted(name).hyperparameters, "label": name, "run_id": "none"}
        changed = params.Params.model_validate(settings)
        export_artifact.export_artifact(
            tmp_path / folder, tmp_path / "weights.safetensors", facts, FEATURES, changed, sides()
        )
        return Recommender.load(tmp_path / folder)

    return write


def history(*numbers: int) -> list[dict]:
    return [{"item_id": f"item-{n}", "event_time": "2024-10-20T00:00:00Z"} for n in numbers]


def ids(answer: object) -> list[str]:
    assert isinstance(answer, dict), answer
    return [item["item_id"] for item in answer["items"]]


ASKED = [
    {"history": history(0, 2, 4), "k": 10},
    {"history": [], "k": 10},
    {"history": history(1, 3), "k": 5, "exclude": ["item-5", "item-7"]},
    {"history": history(0, 2), "filters": {"colour": "odd"}, "k": 15},
    {"history": history(*range(1, 31)), "k": 10},
    {"history": history(6), "k": 40},
    {"history": [], "context": {"side": 1}, "k": 30},
]


def assert_same(found: list, wanted: list) -> None:
    """The same items in the same order, and scores equal within rounding."""
    for one, other in zip(found, wanted, strict=True):
        assert ids(one) == ids(other)
        scores, exact = ([item["score"] for item in answer["items"]] for answer in (one, other))
        np.testing.assert_allclose(scores, exact, rtol=1e-4, atol=1e-4)
        assert {**one, "items": []} == {**other, "items": []}


@pytest.mark.parametrize("name", SEARCHED)
def test_responses_equal_those_of_exact_scoring(exported: Exported, name: str) -> None:
    exact = exported(name, "exact", "exact")
    served = exported(name)

    assert exact.retrieval is None
    assert served.retrieval is not None
    assert served.retrieval.index.num_lists > 1
    assert_same(served.recommend(ASKED, now_us=NOW), exact.recommend(ASKED, now_us=NOW))


@pytest.mark.parametrize("name", SEARCHED)
def test_a_response_is_the_same_to_the_bit_whatever_it_is_batched_with(exported: Exported, name: str) -> None:
    served = exported(name)

    together = served.recommend(ASKED, now_us=NOW)

    for place, body in enumerate(ASKED):
        assert served.recommend([body], now_us=NOW) == [together[place]]
        assert served.recommend([*ASKED[place:], *ASKED[:place]], now_us=NOW)[0] == together[place]


def test_most_requests_do_not_need_the_whole_catalog(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    served = exported()
    monkeypatch.setattr(served.model, "scores", lambda batch: pytest.fail("the whole catalog was scored"))

    answers = served.recommend(ASKED[:3], now_us=NOW)

    assert [len(ids(answer)) for answer in answers] == [10, 10, 5]


def test_a_request_that_needs_more_candidates_gets_a_second_search(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = exported()
    searches = []
    assert served.retrieval is not None
    search = served.retrieval.index.search
    monkeypatch.setattr(
        served.retrieval.index,
        "search",
        lambda queries, count: (searches.append((len(queries), count)), search(queries, count))[1],
    )

    short, long = served.recommend([ASKED[0], ASKED[3]], now_us=NOW)

    assert searches == [(2, 20), (1, ITEMS)], "the second search is only for the request that needs it"
    assert len(ids(short)) == 10
    assert len(ids(long)) == 15


class TrendingStore:
    """Has trends in which item-38, which is in no segment's list, is far ahead."""

    def find_users(self, requests, repeats):
        raise AssertionError("every request has a history")

    def find_trends(self, vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        channels = FEATURES.description["channels"]
        values = FEATURES.trend_log().at(np.array([FEATURES.cut_us]), channels)[0]
        values[vocabulary.index("item-38")] = 1e6
        return TrendSnapshot(values, channels, NOW - HOUR) if newer_than_us < NOW - HOUR else None


@pytest.mark.parametrize(
    ("name", "weight"), [("two_tower", "trend_weights.bias"), ("reranker", "parts.two_tower.trend_weights.bias")]
)
def test_a_new_hit_is_found_although_the_index_is_older(
    exported: Exported, name: str, weight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, served = exported(name, "exact", "exact"), exported(name)
    served.lookup, exact.lookup = TrendingStore(), TrendingStore()  # type: ignore[assignment]
    for one in (served, exact):
        with torch.no_grad():
            dict(one.model.named_parameters())[weight].fill_(1.0)  # the crowd counts
    assert served.retrieval is not None
    search = served.retrieval.index.search
    hit = served.vocabulary.index("item-38")
    monkeypatch.setattr(
        served.retrieval.index,
        "search",
        lambda queries, count: search(queries, count).masked_fill_(search(queries, count) == hit, PAD),
    )
    bodies = [{"history": body["history"], "k": 3} for body in ASKED[:3]]

    answers = served.recommend(bodies, now_us=NOW)

    assert "item-38" in ids(answers[0])
    assert_same(answers, exact.recommend(bodies, now_us=NOW))


def test_a_segment_list_is_complete_although_the_index_finds_nothing_of_it(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = exported("sasrec")  # which answers nobody without a history
    even = torch.tensor([row for row in range(1, ITEMS + 1) if (row - 1) % 2 == 0])
    assert served.retrieval is not None
    monkeypatch.setattr(served.retrieval.index, "search", lambda queries, count: even.expand(len(queries), -1))
    monkeypatch.setattr(served.model, "scores", lambda batch: pytest.fail("the whole catalog was scored"))

    (answer,) = served.recommend([{"history": [], "context": {"side": 1}, "k": 10}], now_us=NOW)

    assert isinstance(answer, dict)
    assert answer["source"] == "segment"
    assert all(int(item.removeprefix("item-")) % 2 for item in ids(answer))


def test_a_failing_index_is_replaced_by_exact_scoring(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, served = exported("two_tower", "exact", "exact"), exported()
    assert served.retrieval is not None
    monkeypatch.setattr(served.retrieval.index, "search", lambda queries, count: 1 / 0)

    assert_same(served.recommend(ASKED, now_us=NOW), exact.recommend(ASKED, now_us=NOW))


def test_the_manifest_holds_the_recall_and_the_hash_of_the_index(exported: Exported) -> None:
    served = exported()
    about = served.manifest["index"]

    assert about["kind"] == "faiss"
    assert about["recall@20"] == 1.0
    assert set(about["recall@20_of_older_trends"]) == {"1d", "7d"}
    assert served.folder is not None
    path = served.folder / index.FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"index\.faiss is not the file that was exported"):
        Recommender.load(served.folder)


def test_the_same_export_gives_the_same_index(exported: Exported, tmp_path: Path) -> None:
    first = exported().manifest
    shutil.rmtree(tmp_path / "artifact")

    assert exported().manifest == first


def test_faiss_is_loaded_only_for_an_artifact_that_has_an_index(exported: Exported, tmp_path: Path) -> None:
    exported("two_tower", "exact", "exact")
    exported()
    program = "import sys; from serving.worker.recommender import Recommender; Recommender.load(sys.argv[1]); print('faiss' in sys.modules)"

    loaded = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / name)],
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout.strip()
        for name in ("exact", "artifact")
    ]

    assert loaded == ["False", "True"]
