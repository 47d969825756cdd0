"""Served features match the data set's on a clean platform, and each planted fault is found in the right group."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from served_platform import DATASET, chosen, log
from skewed_platform import LAST_DAY, LATE, differing, measured, skewed

from config.command import UserError
from data.times import from_iso
from experiments import skew
from experiments.gating import preconditions
from experiments.lineage import report as lineage_options
from experiments.lineage.offline_features import EVENTS, TEST_FEATURES, USERS, OfflineTrends
from experiments.serving_skew import report as skew_record
from experiments.serving_skew.comparison import NEWER, NO_KEY, OTHER_VERSION, OWN_MOMENT, STRANGER, Held, cost
from experiments.serving_skew.sources import CONTEXT_GONE, opened
from features.feature_files import load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answered(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    with skewed(pipeline, tmp_path_factory.mktemp("skewed")) as made:
        yield made


@pytest.fixture
def here(answered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with the products, the online store, and an edge's folder of its own."""
    folder, _ = answered
    shutil.copytree(folder / "edge", tmp_path / "edge")
    for name in ("data", "features", "params.yaml"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(here: Path) -> Path:
    """The data set as something of one's own to change."""
    (here / "data").unlink()
    return shutil.copytree(here.joinpath("features").resolve().parent / "data", here / "data")


def test_a_clean_platform_matches_in_every_group(here: Path, answered) -> None:
    record = measured(here, "clean", status=0)

    assert len(answered[1]) == 6
    for group in ("history", "traits", "trends"):
        told = record["groups"][group]
        assert (told["compared"], told["matched"], told["match_rate"]) == (6, 6, 1.0), (group, told, differing(record))
        assert told["low"] == pytest.approx(6 / (6 + 1.959964**2))  # Wilson's bound where all match
    assert record["differences"] == []
    assert record["cost"]["skewed_answers"] == 0


def test_each_fault_of_a_store_is_found_in_its_group_and_told_by_value(here: Path, capsys) -> None:
    record = measured(here, "planted")

    learned = json.loads(next(one for one in log(here).open() if "planted-behind" in one))["feature_time"]
    assert differing(record) == {
        ("less", "history"): "different: 1 event missing; as the online store has it now",
        ("behind", "history"): f"different: 1 event missing; the store was behind: it had last learned of the user at {learned}",
        ("trait", "traits"): "different: other values of plan; as the online store has it now",
    }  # fmt: skip
    history, traits = record["groups"]["history"], record["groups"]["traits"]
    assert (history["compared"], history["matched"], history["different"]) == (5, 3, 2)
    assert (traits["compared"], traits["matched"], traits["different"]) == (5, 4, 1)
    assert history["not_comparable"] == {NEWER: 1}  # of the event whose time to be known is not there yet
    cost = record["cost"]
    assert (cost["skewed_answers"], cost["computed_again"], cost["on_another_rung"]) == (3, 3, 0)
    worst = max(record["differences"], key=lambda row: row["score_difference"])
    assert cost["largest_score_difference"] == worst["score_difference"] > 1e-3
    assert cost["of_request"] == worst["request_id"]
    assert "skew of demo: history 60.0% [23.1%, 88.2%] of 5 match" in capsys.readouterr().out


def known_late(of: dict[str, str]) -> None:
    """Let the data set say of the first event of two users that it is not known yet."""
    events = pd.read_parquet(EVENTS)
    for name in ("late", "unseen"):
        first = events[events["user_id"] == of[name]].sort_values(["event_time", "event_id"]).index[0]
        events.loc[first, "known_time"] = LATE
    events.to_parquet(EVENTS)


def test_an_event_that_is_not_known_yet_is_seen_by_neither_side(here: Path, data: Path, answered) -> None:
    known_late(answered[1])

    clean = differing(measured(here, "clean"))
    assert clean["late", "history"] == "different: 1 event not due; as the online store has it now"
    assert clean["unseen", "history"].startswith("different: by digest alone")  # the store has learned better since
    assert ("unseen", "history") not in differing(measured(here, "planted"))


def test_trends_of_another_day_are_found_whether_they_say_so_or_not(here: Path, answered) -> None:
    record = measured(here, "other")
    due = "2026-03-31T23:50:00Z"
    assert {why for (_, group), why in differing(record).items() if group == "trends"} == {
        f"different: other values than the data set's as of {due}"
    }
    assert record["groups"]["trends"]["different"] == 6

    found = differing(measured(here, "yesterday"))
    told = f"different: stale: of {LAST_DAY}; those of {due} were due"
    assert {found.pop((name, "trends")) for name in answered[1]} == {told}
    assert list(found) == [("active", "history")]  # all others did nothing on the day that is not in


def test_what_was_read_costs_nothing_and_each_answer_is_computed_on_its_own_trends(here: Path, answered) -> None:
    user = answered[1]["active"]
    (line,) = [one for one in map(json.loads, log(here).open()) if one["request_id"] == "other-trends-active"]
    with opened([line], Path("edge/served"), lineage_options.secret(Path("edge/served")), chosen(here)) as sources:
        model, trends, people = sources.model(line), sources.trends, sources.people
        assert trends is not None
        assert people is not None
        days = (trends.until_us, load(TEST_FEATURES).cut_us)
        read = [trends.at(model.vocabulary, trends.due(moment)) for moment in days]
        person = people.person(user, from_iso(line["time"]), "first")
        due, as_read = (cost(Held(line, {}, person, snapshot), sources) for snapshot in read)

    assert due is not None
    assert as_read is not None
    assert (as_read.difference, as_read.kept, as_read.rung) == (pytest.approx(0, abs=1e-5), 1.0, "personalised")
    assert due.difference is not None
    assert due.difference > 1e-2


def test_what_an_absent_store_did_not_give_is_missing_in_the_answer(here: Path) -> None:
    record = measured(here, "absent")

    assert [record["groups"][group]["missing_in_answer"] for group in ("history", "traits", "trends")] == [6, 6, 6]
    found = differing(record)
    assert found["less", "history"].endswith(
        "events due; the answer says: the request has no history, and the online store is empty"
    )
    assert "age_band, country, gender, plan due" in found["less", "traits"]
    assert found["less", "trends"].startswith("missing in the answer: the export's own, of 2026-03-25")
    assert record["cost"]["on_another_rung"] == 6
    assert record["cost"]["mean_share_of_list_kept"] < 1


def test_what_the_data_set_does_not_hold_is_missing_there(here: Path, data: Path, answered) -> None:
    users = pd.read_parquet(USERS)
    users.loc[users["user_id"] == answered[1]["less"], ["age_band", "gender", "country", "plan"]] = None
    users.to_parquet(USERS)

    record = measured(here, "clean", status=0)
    assert (record["groups"]["traits"]["missing_in_data_set"], list(differing(record))) == (1, [("less", "traits")])


def test_an_erased_user_is_nobody_and_no_difference(here: Path, data: Path, answered) -> None:
    for path in (USERS, EVENTS):
        table = pd.read_parquet(path)
        table[table["user_id"] != answered[1]["less"]].to_parquet(path)

    record = measured(here, "clean", status=0)
    assert (
        record["groups"]["history"]["not_comparable"] == record["groups"]["traits"]["not_comparable"] == {STRANGER: 1}
    )
    assert record["differences"] == []


def test_what_cannot_be_compared_says_why(here: Path) -> None:
    groups = measured(here, "alone", status=0)["groups"]

    static = {"no worker computed it: the edge gave a list that it had": 1}
    nobodys = {
        "the request states its own history": 1,
        "the request names no user": 1,
        "consent denied: the worker was told nothing of the user": 1,
    }
    assert groups["history"]["not_comparable"] == groups["traits"]["not_comparable"] == nobodys | static
    assert groups["trends"]["not_comparable"] == static | {OWN_MOMENT: 1}
    for group, matched in (("history", 2), ("traits", 2), ("trends", 5)):
        told = groups[group]
        assert (told["compared"], told["matched"]) == (matched, matched)
        assert told["compared"] + told["nothing_on_either_side"] + sum(told["not_comparable"].values()) == 7
    assert groups["history"]["nothing_on_either_side"] == 1  # of a user whom neither side knows


@pytest.mark.parametrize(
    ("gone", "group", "why"),
    [
        ("edge/user.key", "history", NO_KEY),
        ("out/features/test", "trends", "out/features/test is not here (`dvc pull`)"),
        ("edge/requests", "traits", CONTEXT_GONE),
    ],
)
def test_what_is_gone_from_this_clone_is_a_reason_and_no_difference(
    here: Path, gone: str, group: str, why: str
) -> None:
    if gone.startswith("features"):
        (here / "features").unlink()
    else:
        path = here / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    record = measured(here, "alone", status=0)
    assert record["groups"][group]["not_comparable"][why] >= 1
    assert record["differences"] == []


def test_trends_of_a_model_of_another_data_set_version_are_not_compared(here: Path, monkeypatch) -> None:
    monkeypatch.setattr(OfflineTrends, "here", classmethod(lambda cls: of_another_version()))

    record = measured(here, "clean", status=0)
    assert record["groups"]["trends"]["not_comparable"] == {OTHER_VERSION: 6}
    assert record["groups"]["history"]["matched"] == 6  # events are appended, never changed: later versions hold them


def of_another_version() -> OfflineTrends:
    trends = OfflineTrends(load("out/features/test"))
    trends.dataset_hash = "another"
    return trends


def test_a_version_that_cannot_be_had_says_so(here: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/none.db")

    (why,) = measured(here, "clean", status=0)["groups"]["history"]["not_comparable"]
    assert why.startswith("its version cannot be had: there is no registry at sqlite:///")


def test_a_sample_is_drawn_by_the_seed_and_a_moment_bounds_it(here: Path, capsys) -> None:
    record = measured(here, "clean", "--limit", "2", status=0)
    assert (record["answers"], record["of"], record["groups"]["trends"]["compared"]) == (2, 6, 2)
    assert record == record | {"oldest": measured(here, "clean", "--limit", "2", status=0)["oldest"]}
    since = measured(here, "clean", status=0)["newest"]
    assert measured(here, "clean", "--since", since, status=0)["of"] == 1

    capsys.readouterr()
    measured(here, "clean", "--since", "2100-01-01", status=2)
    assert capsys.readouterr().err.startswith(
        "error: no answer to hold against the data set: looked at 6 lines in of/served"
    )
    for arguments, said in (
        (("--limit", "0"), "--limit is 0"),
        (("--since", "soon"), "--since: 'soon' is not an ISO 8601"),
    ):
        measured(here, "clean", *arguments, status=2)
        assert said in capsys.readouterr().err


def test_every_line_is_drawn_as_often_as_any_other() -> None:
    drawn = [line["n"] for seed in range(400) for line in skew.sample(({"n": n} for n in range(20)), 5, seed)[0]]

    assert len(drawn) == 2000
    assert all(60 < drawn.count(n) < 140 for n in range(20))  # 100 each, 4 standard deviations about
    assert skew.sample([{"n": 1}], 5, 0) == ([{"n": 1}], 1)


def test_the_page_and_the_text_say_what_is_compared_how(here: Path, capsys) -> None:
    measured(here, "planted")
    text = capsys.readouterr().out
    page = Path("out/experiments/skew.html").read_text()
    for said in ("by digest", "by value", "largest score difference", "planted-less", NEWER.partition(":")[0]):
        assert said in text
        assert said in page
    assert text.endswith("-> out/experiments/skew.html, .json\n")
    assert "u000" not in page.replace("demo", "")

    measured(here, "planted", "--json")
    assert json.loads(capsys.readouterr().out)["history"]["compared"] == 5


def test_the_gate_refuses_what_is_shown_to_match_too_seldom_and_says_what_was_not_measured(here: Path, capsys) -> None:
    policy = chosen(here).gate
    measured(here, "other")
    refusal = preconditions.skewed(skew_record.last(DATASET), policy)
    assert refusal is not None
    assert (refusal.verdict, refusal.reason) == (
        "HOLD",
        "refused: what is served does not read what the data set tells: history 60.0% [23.1%, 88.2%] of 5 match; trends 0.0% [0.0%, 39.0%] of 6 match; gate.min_match_rate is 0.95",
    )  # fmt: skip
    assert "skew: the gate refuses to judge: refused: " in capsys.readouterr().err

    measured(here, "clean", status=0)
    assert preconditions.skewed(skew_record.last(DATASET), policy) is preconditions.skewed(None, policy) is None
    assert skew_record.last("another-data-set") is None
    Path("out/experiments/skew.json").write_text('{"groups": []}')
    with pytest.raises(UserError, match=r"skew\.json is no record of skew"):
        skew_record.last(DATASET)
