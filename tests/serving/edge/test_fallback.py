"""What is answered while TorchServe is not: the last answer, the popular list, the static list of an artifact."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_artifact
from fake_torchserve import FakeTorchServe, recommendations
from rollout_stages import make_stage
from running import Edge, Start, wait_until
from safetensors.numpy import load_file

from serving.artifact import archive
from serving.deployment import rollout_stage
from serving.deployment.rollout_stage import Phase, RolloutStage, utc_now
from serving.edge.answer import build_answer, parse_answer
from serving.edge.fallback import EMPTY, FallbackChain, PopularList, artifact_list, newest_archive, update_static_list
from serving.worker.request import Request

LIST = PopularList.from_answer(recommendations({"k": 9}, "1.0"))


def request(**fields: object) -> Request:
    return Request("ann", [], has_history=False, k=3, time_us=0, context={}, request_id=None, **fields)


def test_the_last_answer_comes_before_the_popular_list_and_that_before_the_static_one() -> None:
    last = build_answer(recommendations({"user_id": "ann"}, "1.0"))
    chain = FallbackChain(LIST, popular=LIST)
    assert parse_answer(chain.answer(request(), "it fails", last_answer=last))["source"] == "cached"
    assert parse_answer(chain.answer(request(), "it fails"))["source"] == "popular"
    assert parse_answer(FallbackChain(LIST).answer(request(), "it fails"))["source"] == "static"


def test_the_popular_list_of_a_version_that_was_rolled_back_is_not_given(
    start: Start, torchserve: FakeTorchServe, tmp_path: Path
) -> None:
    path = tmp_path / "stage.json"
    assert rollout_stage.replace_stage(path, None, make_stage(Phase.SERVES, torchserve.version, "0.9"))
    edge = start(rollout=path)
    torchserve.stop()
    assert edge.answer({"user_id": "ann"})["source"] == "popular"
    rollout_stage.order_rollback(path, "it lists nonsense", "me@host")
    wait_until(lambda: edge.service.trial.stage.phase is Phase.ROLLBACK)
    assert edge.answer({"user_id": "ann"})["source"] == "static"


def test_a_list_that_cannot_be_filtered_is_not_given_under_a_filter() -> None:
    chain = FallbackChain(LIST, popular=LIST)
    answer = parse_answer(chain.answer(request(filters={"genre": ["drama"]}), "it fails"))
    assert (answer["source"], answer["items"]) == ("static", [])
    assert "filters cannot be applied without TorchServe" in answer["reason"]


def test_only_an_answer_under_the_same_filter_is_repeated(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "ann", "filters": {"genre": ["for children"]}})
    torchserve.stop()
    same = edge.answer({"user_id": "ann", "k": 3, "filters": {"genre": ["for children"]}})
    assert (same["source"], len(same["items"])) == ("cached", 3)
    other = edge.answer({"user_id": "ann", "k": 3, "filters": {"genre": ["drama"]}})
    assert (other["source"], other["items"]) == ("static", [])
    assert edge.answer({"user_id": "ann", "k": 3})["source"] == "popular"


def test_before_torchserve_ever_answered_the_static_list_is_given(start: Start, torchserve: FakeTorchServe) -> None:
    torchserve.stop()
    answer = start(warm=False).answer({"user_id": "ann", "k": 4})
    assert answer["source"] == "static"
    assert len(answer["items"]) == 4
    assert {item["item_id"] for item in answer["items"]} <= set(tiny_artifact.ITEMS)
    assert answer["dataset_version"] == "dataset-1"


def test_before_any_export_the_answer_is_empty_and_has_the_reason(start: Start, torchserve: FakeTorchServe) -> None:
    torchserve.stop()
    answer = start(warm=False, artifact=None, dataset="never-exported").answer({"user_id": "ann"})
    assert (answer["source"], answer["items"]) == ("static", [])
    assert "no model was ever exported" in answer["reason"]


def test_a_fallback_repeats_no_known_or_excluded_item(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "ann", "k": 5})
    torchserve.stop()
    seen = [{"item_id": "ann-001", "event_time": "2026-01-01T00:00:00Z"}]
    answer = edge.answer({"user_id": "ann", "k": 5, "exclude": ["ann-000"], "history": seen})
    assert answer["source"] == "cached"
    assert [item["item_id"] for item in answer["items"]] == ["ann-002", "ann-003", "ann-004"]
    gone = {"user_id": "ann", "k": 2, "exclude": [f"ann-{n:03d}" for n in range(5)] + ["popular-000"]}
    answer = edge.answer(gone)
    assert (answer["source"], [item["item_id"] for item in answer["items"]]) == (
        "popular",
        ["popular-001", "popular-002"],
    )


def test_without_an_artifact_the_popular_list_is_kept_for_the_next_start(
    start: Start, torchserve: FakeTorchServe
) -> None:
    edge = start(artifact=None, dataset="tiny")
    file = edge.settings.home / "static.json"
    wait_until(file.exists)
    torchserve.stop()
    again = start(warm=False, artifact=None, dataset="tiny", home=edge.settings.home)
    answer = again.answer({"user_id": "bob", "k": 1})
    assert (answer["source"], answer["items"][0]["item_id"]) == ("static", "popular-000")


def test_items_of_an_artifact_are_ordered_by_their_counts(artifacts: dict[int, Path]) -> None:
    popular = artifact_list(artifacts[1])
    counts = load_file(artifacts[1] / "trends.safetensors")["trends"][1:, 0]
    expected = [tiny_artifact.ITEMS[row] for row in np.argsort(-counts, kind="stable")]
    assert [item["item_id"] for item in popular.items] == expected
    assert popular.items[0] == {"item_id": expected[0], "score": counts.max(), "title": f"Title {expected[0]}"}
    assert popular.trends_time == "2026-01-01T00:00:00Z"
    assert (popular.model_version, popular.dataset_version) == ("unregistered", "dataset-1")


def test_the_newest_archive_of_the_dataset_is_taken(artifacts: dict[int, Path], tmp_path: Path) -> None:
    store = tmp_path / "models"
    for name, version, seed in (("tiny", "9.0", 2), ("tiny", "10.1", 1), ("tiny-2", "99.0", 2)):
        archive.build_archive(artifacts[seed], store / f"{name}-{version}.mar", name, version)
    assert newest_archive(store, "tiny").name == "tiny-10.1.mar"
    popular = update_static_list(tmp_path / "static.json", None, store, "tiny")
    assert (popular.model_version, popular.dataset_version) == ("10.1", "dataset-1")
    assert popular.items == artifact_list(artifacts[1]).items
    assert PopularList.load(tmp_path / "static.json") == popular


@pytest.mark.parametrize(("phase", "serving"), [(phase, "2.0" if phase is Phase.SERVES else "1.0") for phase in Phase])
def test_with_a_stage_the_list_is_that_of_the_version_that_serves(
    artifacts: dict[int, Path], tmp_path: Path, phase: Phase, serving: str
) -> None:
    stage = RolloutStage(
        dataset="tiny", phase=phase, version="2.0", previous="1.0", since=utc_now(), reason="a test", by="me@here"
    )
    store, path = tmp_path / "models", tmp_path / "static.json"
    for version, seed in (("1.0", 1), ("2.0", 2), ("3.0", 2)):
        archive.build_archive(artifacts[seed], store / f"tiny-{version}.mar", "tiny", version)
    before = update_static_list(path, None, store, "tiny", stage)
    assert before.model_version == serving
    (store / f"tiny-{serving}.mar").unlink()
    assert update_static_list(path, None, store, "tiny", stage) == before


@pytest.mark.parametrize("name", ["trends.safetensors", "vocabulary.json"])
def test_an_artifact_that_was_changed_is_not_used_and_the_previous_list_stays(
    artifacts: dict[int, Path], tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, copy = tmp_path / "static.json", tmp_path / "copy"
    before = update_static_list(path, artifacts[1], tmp_path, "tiny")
    shutil.copytree(artifacts[1], copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert update_static_list(path, copy, tmp_path, "tiny") == before
    assert f"{name} is not the file that was exported" in caplog.text


def test_without_an_artifact_the_list_is_the_previous_one_or_empty(artifacts: dict[int, Path], tmp_path: Path) -> None:
    path = tmp_path / "static.json"
    assert update_static_list(path, None, tmp_path / "no-store", "tiny") == EMPTY
    assert update_static_list(path, tmp_path / "gone", tmp_path, "tiny") == EMPTY
    path.write_text("[half a fi", encoding="utf-8")
    assert update_static_list(path, None, tmp_path, "tiny") == EMPTY
    before = update_static_list(path, artifacts[2], tmp_path, "tiny")
    assert update_static_list(path, None, tmp_path / "no-store", "tiny") == before
