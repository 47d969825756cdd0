"""Served features match the dataset on a sound platform, and each planted fault is found in its group."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from served_platform import DATASET, chosen, log
from skewed_platform import LAST_DAY, LATE, differing, measured, skewed

from experiments.gating import preconditions
from experiments.lineage import skew_report
from experiments.lineage.inputs import EVENTS, NO_SECRET, USERS, OfflineTrends
from experiments.lineage.skew_report import CONTEXT_MISSING, NEWER_USER, OTHER_VERSION, OWN_TIME, UNKNOWN_USER
from features.feature_files import load_features

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answered(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    with skewed(pipeline, tmp_path_factory.mktemp("skewed")) as made:
        yield made


@pytest.fixture
def here(answered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with the products, the online store, and an edge's folder of its own."""
    folder, _ = answered
    for name in ("edge", "edge-keys"):
        shutil.copytree(folder / name, tmp_path / name)
    (tmp_path / "out").mkdir()
    for name in ("out/data", "out/features", "params.yaml"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(here: Path) -> Path:
    """A copy of the dataset that a test may change."""
    source = (here / "out/data").resolve()
    (here / "out/data").unlink()
    return shutil.copytree(source, here / "out/data")


def test_a_clean_platform_matches_in_every_group(here: Path, answered) -> None:
    record = measured(here, "clean", status=0)

    assert len(answered[1]) == 6
    for group in ("history", "traits", "trends"):
        group_row = record["groups"][group]
        assert (group_row["compared"], group_row["matched"], group_row["match_rate"]) == (6, 6, 1.0), (
            group,
            group_row,
            differing(record),
        )
        assert group_row["low"] == pytest.approx(6 / (6 + 1.959964**2))  # Wilson's bound where all match
    assert record["differences"] == []


def test_each_fault_of_a_store_is_found_in_its_group(here: Path, capsys) -> None:
    record = measured(here, "planted")

    lines = [json.loads(line) for line in log(here).open(encoding="utf-8") if '"request_id":"planted-' in line]
    learned = {line["request_id"].removeprefix("planted-"): line["feature_time"] for line in lines}
    assert differing(record) == {
        (name, group): f"different: the store had learned of the user until {learned[name]}"
        for name, group in (("less", "history"), ("behind", "history"), ("trait", "traits"))
    }
    history, traits = record["groups"]["history"], record["groups"]["traits"]
    assert (history["compared"], history["matched"], history["different"]) == (5, 3, 2)
    assert (traits["compared"], traits["matched"], traits["different"]) == (5, 4, 1)
    assert history["not_comparable"] == {NEWER_USER: 1}  # of the event whose time to be known is not there yet
    assert "skew of demo: history 60.0% [23.1%, 88.2%] of 5 match" in capsys.readouterr().out


def known_late(of: dict[str, str]) -> None:
    """Make the first event of two users unknown so far in the dataset."""
    events = pd.read_parquet(EVENTS)
    for name in ("late", "unseen"):
        first = events[events["user_id"] == of[name]].sort_values(["event_time", "event_id"]).index[0]
        events.loc[first, "known_time"] = LATE
    events.to_parquet(EVENTS)


def test_an_event_that_is_not_known_yet_counts_on_neither_side(here: Path, data: Path, answered) -> None:
    known_late(answered[1])

    clean = differing(measured(here, "clean"))
    assert {name for name, group in clean if group == "history"} == {"late", "unseen"}
    assert ("unseen", "history") not in differing(measured(here, "planted"))


def test_trends_of_another_day_are_found_whatever_their_time_says(here: Path, answered) -> None:
    record = measured(here, "other")
    due = "2026-03-31T23:50:00Z"
    assert {why for (_, group), why in differing(record).items() if group == "trends"} == {
        f"different: other values than the dataset's as of {due}"
    }
    assert record["groups"]["trends"]["different"] == 6

    found = differing(measured(here, "yesterday"))
    group_row = f"different: stale: of {LAST_DAY}; those of {due} were due"
    assert {found.pop((name, "trends")) for name in answered[1]} == {group_row}
    assert list(found) == [("active", "history")]  # all others did nothing on the day that is not in


def test_without_a_store_the_groups_are_missing_in_the_answer(here: Path) -> None:
    record = measured(here, "absent")

    assert [record["groups"][group]["missing_in_answer"] for group in ("history", "traits", "trends")] == [6, 6, 6]
    found = differing(record)
    assert found["less", "history"].endswith(
        "events due; reason of the answer: the request has no history, and the online store is empty"
    )
    assert "age_band, country, gender, plan due" in found["less", "traits"]
    assert found["less", "trends"].startswith("missing in the answer: the export's own, of 2026-03-25")


def test_traits_that_only_serving_has_are_missing_in_the_dataset(here: Path, data: Path, answered) -> None:
    users = pd.read_parquet(USERS)
    users.loc[users["user_id"] == answered[1]["less"], ["age_band", "gender", "country", "plan"]] = None
    users.to_parquet(USERS)

    record = measured(here, "clean", status=0)
    assert (record["groups"]["traits"]["missing_in_dataset"], list(differing(record))) == (1, [("less", "traits")])


def test_an_erased_user_is_not_comparable(here: Path, data: Path, answered) -> None:
    for path in (USERS, EVENTS):
        table = pd.read_parquet(path)
        table[table["user_id"] != answered[1]["less"]].to_parquet(path)

    record = measured(here, "clean", status=0)
    assert (
        record["groups"]["history"]["not_comparable"]
        == record["groups"]["traits"]["not_comparable"]
        == {UNKNOWN_USER: 1}
    )
    assert record["differences"] == []


def test_a_group_that_cannot_be_compared_says_why(here: Path) -> None:
    groups = measured(here, "alone", status=0)["groups"]

    static = {"no worker computed this answer: the edge gave a list that it had": 1}
    nobodys = {
        "the request has its own history": 1,
        "the request names no user": 1,
        "consent denied: the edge withheld the user from the worker": 1,
    }
    assert groups["history"]["not_comparable"] == groups["traits"]["not_comparable"] == nobodys | static
    assert groups["trends"]["not_comparable"] == static | {OWN_TIME: 1}
    for group, matched in (("history", 2), ("traits", 2), ("trends", 5)):
        group_row = groups[group]
        assert (group_row["compared"], group_row["matched"]) == (matched, matched)
        assert (
            group_row["compared"] + group_row["nothing_on_either_side"] + sum(group_row["not_comparable"].values()) == 7
        )
    assert groups["history"]["nothing_on_either_side"] == 1  # of a user whom neither side knows


@pytest.mark.parametrize(
    ("gone", "group", "why"),
    [
        ("edge-keys/1.key", "history", NO_SECRET),
        ("out/features/test", "trends", "out/features/test is not here (`dvc pull`)"),
        ("edge/requests", "traits", CONTEXT_MISSING),
    ],
)
def test_a_missing_source_is_a_reason_and_no_difference(here: Path, gone: str, group: str, why: str) -> None:
    if gone.startswith("out/features"):
        (here / "out/features").unlink()
    else:
        path = here / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    record = measured(here, "alone", status=0)
    assert record["groups"][group]["not_comparable"][why] >= 1
    assert record["differences"] == []


def test_trends_of_another_dataset_version_are_not_compared(here: Path, monkeypatch) -> None:
    monkeypatch.setattr(OfflineTrends, "load", classmethod(lambda cls: of_another_version()))

    record = measured(here, "clean", status=0)
    assert record["groups"]["trends"]["not_comparable"] == {OTHER_VERSION: 6}
    assert record["groups"]["history"]["matched"] == 6  # events are appended, never changed: later versions hold them


def of_another_version() -> OfflineTrends:
    trends = OfflineTrends(load_features("out/features/test"))
    trends.dataset_hash = "another"
    return trends


def test_a_version_that_cannot_be_loaded_says_so(here: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/none.db")

    (why,) = measured(here, "clean", status=0)["groups"]["history"]["not_comparable"]
    assert why.startswith("its version cannot be loaded: there is no registry at sqlite:///")


def test_since_bounds_the_answers(here: Path, capsys) -> None:
    since = measured(here, "clean", status=0)["newest"]
    assert measured(here, "clean", "--since", since, status=0)["of"] == 1

    capsys.readouterr()
    measured(here, "clean", "--since", "2100-01-01", status=2)
    assert capsys.readouterr().err.startswith("error: of/served holds no answer to compare with the dataset")
    measured(here, "clean", "--since", "soon", status=2)
    assert "--since: 'soon' is not an ISO 8601" in capsys.readouterr().err


def test_the_sample_is_uniform() -> None:
    drawn = [line["n"] for seed in range(400) for line in skew_report.sample(({"n": n} for n in range(20)), 5, seed)[0]]

    assert len(drawn) == 2000
    assert all(60 < drawn.count(n) < 140 for n in range(20))  # 100 each, 4 standard deviations about
    assert skew_report.sample([{"n": 1}], 5, 0) == ([{"n": 1}], 1)


def test_page_and_text_hold_the_groups_and_the_differences(here: Path, capsys) -> None:
    measured(here, "planted")
    text = capsys.readouterr().out
    page = Path("out/experiments/skew.html").read_text(encoding="utf-8")
    for message in ("missing in the answer", "planted-less", NEWER_USER.partition(":")[0]):
        assert message in text
        assert message in page
    assert text.endswith("report: out/experiments/skew.html\n")
    assert "u000" not in page.replace("demo", "")

    measured(here, "planted", "--json")
    assert json.loads(capsys.readouterr().out)["history"]["compared"] == 5


def test_the_gate_refuses_skew_that_is_shown_and_nothing_else(here: Path, capsys) -> None:
    policy = chosen(here).gate
    measured(here, "other")
    refusal = preconditions.skewed_serving(skew_report.last(DATASET), policy)
    assert refusal is not None
    assert (refusal.verdict, refusal.reason) == (
        "HOLD",
        "refused: serving reads other features than the dataset holds: history 60.0% [23.1%, 88.2%] of 5 match; trends 0.0% [0.0%, 39.0%] of 6 match; gate.min_match_rate is 0.95",
    )  # fmt: skip
    assert "the gate will not judge: refused: " in capsys.readouterr().err

    measured(here, "clean", status=0)
    assert (
        preconditions.skewed_serving(skew_report.last(DATASET), policy)
        is preconditions.skewed_serving(None, policy)
        is None
    )
    assert skew_report.last("another-data-set") is None
