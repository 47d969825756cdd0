"""The static list: an artifact's most popular items, whatever form it is in, and whatever became of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_artifact
from safetensors.numpy import load_file

from serving import package
from serving.edge import static
from serving.edge.listing import EMPTY, Listing


def test_items_come_by_their_counts_with_titles_and_lineage(artifacts: dict[int, Path]) -> None:
    listing = static.popular(artifacts[1])
    counts = load_file(artifacts[1] / "trends.safetensors")["trends"][1:, 0]
    expected = [tiny_artifact.ITEMS[row] for row in np.argsort(-counts, kind="stable")]
    assert [item["item_id"] for item in listing.items] == expected
    assert listing.items[0] == {"item_id": expected[0], "score": counts.max(), "title": f"Title {expected[0]}"}
    assert listing.trends_time == "2026-01-01T00:00:00Z"
    assert (listing.model_version, listing.dataset_version) == ("unregistered", "dataset-1")


def test_the_newest_archive_of_the_data_set_is_taken(artifacts: dict[int, Path], tmp_path: Path) -> None:
    store = tmp_path / "models"
    for name, version, seed in (("tiny", "9.0", 2), ("tiny", "10.1", 1), ("tiny-2", "99.0", 2)):
        package.build(artifacts[seed], store / f"{name}-{version}.mar", name, version)
    assert static.newest(store, "tiny").name == "tiny-10.1.mar"
    listing = static.write(tmp_path / "static.json", None, store, "tiny")
    assert (listing.model_version, listing.dataset_version) == ("10.1", "dataset-1")
    assert listing.items == static.popular(artifacts[1]).items
    assert Listing.load(tmp_path / "static.json") == listing


@pytest.mark.parametrize("name", ["trends.safetensors", "vocabulary.json"])
def test_an_artifact_that_was_changed_is_not_used_and_the_list_before_stays(
    artifacts: dict[int, Path], tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, copy = tmp_path / "static.json", tmp_path / "copy"
    before = static.write(path, artifacts[1], tmp_path, "tiny")
    shutil.copytree(artifacts[1], copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert static.write(path, copy, tmp_path, "tiny") == before
    assert f"{name} is not the file that was exported" in caplog.text


def test_with_nothing_to_read_the_list_is_the_one_before_or_empty(artifacts: dict[int, Path], tmp_path: Path) -> None:
    path = tmp_path / "static.json"
    assert static.write(path, None, tmp_path / "no-store", "tiny") == EMPTY
    assert static.write(path, tmp_path / "gone", tmp_path, "tiny") == EMPTY
    path.write_text("[half a fi")
    assert static.write(path, None, tmp_path, "tiny") == EMPTY
    before = static.write(path, artifacts[2], tmp_path, "tiny")
    assert static.write(path, None, tmp_path / "no-store", "tiny") == before
