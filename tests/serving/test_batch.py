"""Recommendations for everybody in a file are what the endpoint would answer, and a failure leaves the older file."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_features import recipe, train_settings
from safetensors.torch import save_file

from config import params
from config.paths import ROOT
from data.columns import DAY, HOUR
from data.consent import PERSONALIZATION, Answer
from data.tables import write_table
from data.times import now_us, to_iso
from features import materialize
from features.feature_files import load_features
from features.feature_files import save_features as write_features
from features.fit import fit_features
from features.online.connect import StoreSettings, connect
from features.online.profile import make_profile
from features.online.store import Policy
from serving import batch
from serving.artifact import export_artifact
from serving.artifact.export_artifact import SideTables
from serving.worker.recommender import Recommender
from serving.worker.users import StoreLookup
from training.fitting import fit

SETTINGS = params.load(ROOT / "params.yaml")
T = 1_767_300_000_000_000
CUT, END = T + 20 * DAY, T + 31 * DAY
USERS = [f"u{number}" for number in range(9)]


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The products of a small dataset, and an artifact fitted on it; `u8` took nothing."""
    folder = tmp_path_factory.mktemp("products")
    rng = np.random.default_rng(0)
    times = pd.Series(pd.to_datetime(T + np.sort(rng.integers(0, 30 * 24, 120)) * HOUR, unit="us", utc=True))
    times = times.astype("datetime64[us, UTC]")
    events = pd.DataFrame({
        "event_id": [f"e{number:03d}" for number in range(120)],
        "user_id": [USERS[number] for number in rng.integers(0, 8, 120)],
        "item_id": [f"i{number}" for number in rng.integers(0, 40, 120)],
        "event_time": times, "known_time": times + pd.Timedelta(hours=3), "event_type": "play",
    })  # fmt: skip
    users = pd.DataFrame({"user_id": USERS[::-1], "plan": ["free", "paid", None] * 3})
    items = pd.DataFrame({"item_id": [f"i{number}" for number in range(40)]})
    made = fit_features(events, users, items, CUT, SETTINGS.featurize, 0)
    made.description |= {
        "until_us": END, "cut": "test", "repeats": "first", "dataset": SETTINGS.dataset, "dataset_hash": "made",
        "split_id": "made", "numeric_ids": [],
    }  # fmt: skip
    write_features(folder / "out/features/test", made)
    for name, table in {"split/events": events, "ingest/users": users}.items():
        path = folder / f"out/data/{name}.parquet"
        path.parent.mkdir(parents=True)
        write_table(path, table)
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    _export(folder, SideTables(users, items))
    return folder


@pytest.fixture
def project(products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the products to work in."""
    shutil.copytree(products, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("TIDEGATE_STORE", "TIDEGATE_STORE_READ_MS", "TIDEGATE_STORE_WRITE_MS"):
        monkeypatch.delenv(name, raising=False)
    store = connect(SETTINGS.dataset, StoreSettings(), writing=True)  # that nobody has answered
    store.configure(Policy(50, None))
    store.close()
    return tmp_path


def _export(folder: Path, sides: SideTables) -> None:
    features, weights = load_features(folder / "out/features/test"), folder / "weights.safetensors"
    fitted = fit(recipe("item_knn"), features, train_settings(), seed=0)
    save_file({key: value.contiguous() for key, value in fitted.model.state_dict().items()}, weights)
    about = {"hyperparameters": fitted.hyperparameters, "label": "item_knn", "run_id": "none"}
    export_artifact.export_artifact(folder / "artifact", weights, about, features, SETTINGS, sides)


def run(*arguments: str) -> int:
    return batch.main(["--artifact", "artifact", "--out", "made/all.parquet", *arguments])


def written() -> list[dict]:
    return pq.read_table("made/all.parquet").to_pylist()


def served(users: Sequence[str], until_us: int, k: int) -> list[dict]:
    """What the worker answers, with the online store filled as of the moment."""
    assert materialize.main(["--until", to_iso(until_us)]) == 0
    recommender = Recommender.load("artifact")
    recommender.lookup = StoreLookup(lambda: connect(SETTINGS.dataset, StoreSettings()))
    return recommender.recommend([{"user_id": user, "k": k} for user in users], now_us=until_us)


@pytest.mark.parametrize("until_us", [END, CUT + 5 * DAY + HOUR, END + 365 * DAY - HOUR])
def test_everybody_gets_what_the_endpoint_would_answer_at_that_moment(
    project: Path, until_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCH_USERS", 4)
    assert run("--at", to_iso(until_us), "--k", "7") == 0

    rows, answers = written(), served(USERS, until_us, 7)
    assert [row["user_id"] for row in rows] == USERS
    for row, answer in zip(rows, answers, strict=True):
        assert row["item_ids"] == [item["item_id"] for item in answer["items"]]
        assert row["scores"] == [item["score"] for item in answer["items"]]
        for name in ("source", "reason", "segments", "model_version", "dataset_version"):
            assert row[name] == answer[name]
        for name in ("time", "feature_time", "trends_time"):
            assert row[name] == (answer[name] and pd.Timestamp(answer[name]))
    assert {row["source"] for row in rows[:8]} == {"personalized"} or until_us > END


def refuse(user_id: str) -> None:
    store = connect(SETTINGS.dataset, StoreSettings(), writing=True)
    store.upsert([make_profile(user_id, consent={PERSONALIZATION: Answer(False, now_us(), "page")})])
    store.close()


def test_who_does_not_consent_gets_the_popular_list_as_from_the_endpoint(project: Path) -> None:
    assert materialize.main([]) == 0
    refuse("u3")
    assert run() == 0

    rows = {row["user_id"]: row for row in written()}
    (answer,) = served(["u3"], END, 20)
    assert rows["u3"]["item_ids"] == [item["item_id"] for item in answer["items"]]
    assert (rows["u3"]["source"], rows["u3"]["segments"], rows["u3"]["feature_time"]) == ("popular", [], None)
    assert rows["u3"]["reason"].startswith("this user has not agreed to personalization")
    assert {rows[user]["source"] for user in USERS[:3]} == {"personalized"}


def test_whose_consent_was_lost_gets_the_popular_list(project: Path) -> None:
    assert materialize.main([]) == 0
    with closing(sqlite3.connect(project / "out/state/online.consent.db", isolation_level=None)) as database:
        database.execute("DELETE FROM records")
    assert run() == 0

    assert {row["source"] for row in written()[:8]} == {"popular"}


@pytest.mark.parametrize("lost", ["online.*", "online.db*", "online.consent.db*"])
def test_nothing_is_written_where_a_file_of_the_store_is_gone(project: Path, lost: str) -> None:
    refuse("u3")
    for path in (project / "out/state").glob(lost):
        path.unlink()
    assert run() == 2
    assert not Path("made/all.parquet").exists()


def test_who_was_not_asked_gets_what_the_edge_is_set_to_give(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_EDGE_PERSONALIZE_BY_DEFAULT", "false")
    assert run() == 0

    assert {row["source"] for row in written()[:8]} == {"popular"}
    assert "was not asked" in written()[0]["reason"]


def test_nothing_is_written_while_the_online_store_does_not_answer(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_STORE", "redis://127.0.0.1:1/0")

    assert run() == 2
    assert "redis://127.0.0.1:1/0" in capsys.readouterr().err
    assert not Path("made/all.parquet").exists()


def test_the_moment_is_the_end_of_the_data_unless_stated(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0

    assert {row["time"] for row in written()} == {pd.Timestamp(to_iso(END))}
    assert f"9 users at {to_iso(END)} with version unregistered" in capsys.readouterr().out


def test_the_size_of_a_batch_changes_nothing_but_the_progress(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    one_batch = written()
    capsys.readouterr()
    monkeypatch.setattr(batch, "BATCH_USERS", 1)
    run()

    assert written() == one_batch
    assert capsys.readouterr().out.splitlines()[:2] == ["1 of 9 users", "2 of 9 users"]


def test_a_failure_leaves_the_older_file_and_nothing_else(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    before = written()
    monkeypatch.setattr(batch, "MAX_K", 2000)  # what the recommender itself refuses, after the first check

    assert run("--k", "1500") == 2

    assert "the request of a user is refused: k: input should be less than or equal to 1000" in capsys.readouterr().err
    assert written() == before
    assert [path.name for path in Path("made").iterdir()] == ["all.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "0"], "--k is 0; expected 1 to 1000"),
        (["--at", "soon"], "--at: 'soon' is not an ISO 8601 time"),
        (["--at", to_iso(CUT - DAY)], f"--at is {to_iso(CUT - DAY)}; the artifact was fitted on events until {to_iso(CUT)}"),
        (["--out", "artifact"], "--out is artifact, which is a folder; expected a file to write"),
        (["--artifact", "nowhere"], "--artifact: nowhere: manifest.json cannot be read"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_argument(
    project: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert not Path("made/all.parquet").exists()


def test_an_artifact_of_another_data_set_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "params.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace(f"dataset: {SETTINGS.dataset} ", "dataset: shop "), encoding="utf-8"
    )

    assert run() == 2
    assert f"--artifact artifact is of {SETTINGS.dataset}; params.dataset is shop" in capsys.readouterr().err


def test_without_an_artifact_only_a_champion_that_passed_the_gate_answers(
    project: Path, tracked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch.main([]) == 2
    assert f"{SETTINGS.dataset} has no champion; a version becomes one by passing the gate" in capsys.readouterr().err

    from serving.deployment import promotion, registry

    promotion.promote(
        SETTINGS.dataset, registry.register_version(SETTINGS.dataset, project / "artifact"), {"verdict": "PROMOTE"}
    )
    assert batch.main(["--out", "made/all.parquet"]) == 0
    assert {row["model_version"] for row in written()} == {"1.0"}
