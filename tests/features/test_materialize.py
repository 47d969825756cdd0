"""The command fills a store from a dataset, as of any moment, or from JSON lines; bad lines are reported and left out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import params
from config.paths import ROOT
from data.columns import DAY, HOUR, MINUTE
from data.consent import PERSONALIZATION, decide
from data.tables import write_table
from data.times import now_us, to_iso
from features import materialization, materialize
from features.feature_files import load_features, save_features
from features.fit import fit_features
from features.online import profile
from features.online.connect import StoreSettings, connect, read_settings
from features.online.errors import StoreError
from features.online.store import Policy
from features.vocabulary import PAD
from serving.backup import restore, save

SETTINGS = params.load(ROOT / "params.yaml")
T = 1_767_300_000_000_000
CUT = T + 20 * DAY


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materialization, "BATCH_SIZE", 2)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A folder to work in with the products of a small data set; returns its events."""
    generator = np.random.default_rng(0)
    hours = np.sort(generator.integers(0, 30 * 24, 300))
    times = pd.to_datetime(pd.Series(T + hours * HOUR), unit="us", utc=True).astype("datetime64[us, UTC]")
    events = pd.DataFrame({
        "event_id": [f"e{number:03d}" for number in range(300)],
        "user_id": [f"u{number}" for number in generator.integers(0, 9, 300)],
        "item_id": [f"i{number}" for number in generator.integers(0, 20, 300)],
        "event_time": times, "known_time": times + pd.Timedelta(hours=3), "event_type": "play",
    })  # fmt: skip
    users = pd.DataFrame({"user_id": [f"u{number}" for number in range(9)], "age": [30, None, *range(20, 27)]})
    items = pd.DataFrame({"item_id": [f"i{number}" for number in range(20)]})
    made = fit_features(events, users, items, CUT, SETTINGS.featurize, 0)
    made.description |= {"until_us": T + 31 * DAY, "numeric_ids": []}
    save_features(tmp_path / "out/features/test", made)
    for name, table in {"split/events": events, "ingest/users": users}.items():
        path = tmp_path / f"out/data/{name}.parquet"
        path.parent.mkdir(parents=True)
        write_table(path, table)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    for name in ("TIDEGATE_STORE", "TIDEGATE_STORE_READ_MS", "TIDEGATE_STORE_WRITE_MS"):
        monkeypatch.delenv(name, raising=False)
    return events


def stored(user: str, at: int):
    return connect(SETTINGS.dataset, StoreSettings()).read([user], [at])[0].profile


def test_the_whole_dataset_is_stored(project: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    assert materialize.main([]) == 0

    path = Path("out/state/online.db").resolve()
    assert f"materialized 9 profiles and the trends of 20 items -> sqlite:///{path}" in capsys.readouterr().out
    at = T + 31 * DAY
    for user, own in project.groupby("user_id"):
        assert [event.event_id for event in profile.visible_events(stored(str(user), at), at, "all")] == own[
            "event_id"
        ].tolist()
    assert profile.visible_traits(stored("u0", at), at) == {"age": 30.0}
    assert profile.visible_traits(stored("u1", at), at) == {}


def test_events_unknown_at_the_moment_are_left_out(project: pd.DataFrame) -> None:
    own = project[project["user_id"] == "u3"]
    until = own["event_time"].iloc[len(own) // 2] + pd.Timedelta(hours=1)  # happened, but known two hours later
    assert materialize.main(["--until", until.isoformat()]) == 0

    expected = own[own["known_time"] <= until]
    assert 0 < len(expected) < (own["event_time"] < until).sum()
    assert [event.event_id for event in stored("u3", until.value // 1000).events] == expected["event_id"].tolist()


def test_events_known_after_the_last_event_are_stored(project: pd.DataFrame) -> None:
    description = Path("out/features/test/description.json")
    last_us = project["event_time"].max().value // 1000
    description.write_text(
        json.dumps(json.loads(description.read_text(encoding="utf-8")) | {"until_us": last_us + 1}), encoding="utf-8"
    )  # as fit_features
    assert materialize.main([]) == 0

    user = project["user_id"].iloc[-1]
    own = project[project["user_id"] == user]["event_id"].tolist()
    assert [event.event_id for event in stored(user, T + 31 * DAY).events] == own


def test_trends_are_those_of_the_last_refresh(project: pd.DataFrame) -> None:
    assert materialize.main(["--until", "2026-01-25T12:34:00Z"]) == 0

    features = load_features("out/features/test")
    at = pd.Timestamp("2026-01-25T12:30:00Z").value // 1000
    found = connect(SETTINGS.dataset, StoreSettings()).read_trends(at)
    assert found is not None
    assert found.time_us == at
    expected = features.trend_log().at(np.array([at]), found.channels)[0, PAD + 1 :]
    assert expected.any()
    np.testing.assert_array_equal(found.values, expected)


def test_no_user_is_read_before_all_are_stored(project: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(materialize, "trends_at", killed)  # after the last profile
        assert materialize.main([]) == 130
    with pytest.raises(StoreError, match="is incomplete"):
        stored("u3", CUT)

    assert materialize.main([]) == 0
    assert stored("u3", CUT) is not None


def test_what_is_served_goes_on_being_served_while_it_is_materialized_again(
    project: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize.main([])
    read = []
    whole = materialization.write_profiles
    monkeypatch.setattr(materialize, "write_profiles", lambda *given: read.append(stored("u3", CUT)) or whole(*given))

    assert materialize.main([]) == 0
    assert read[0] is not None


def test_events_that_arrive_meanwhile_do_not_complete_the_store(
    project: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines").write_text(
        '{"user_id": "u3", "event_time": "2026-06-01", "traits": {"plan": "free"}}', encoding="utf-8"
    )
    store = connect(SETTINGS.dataset, StoreSettings(), writing=True)
    store.configure(Policy(max_events=50, ttl_us=None, complete=False))

    assert materialize.main(["--events", "lines"]) == 0
    with pytest.raises(StoreError, match="is incomplete"):
        stored("u3", T + 400 * DAY)


def test_a_moment_before_all_events_stores_nothing(project: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    assert materialize.main(["--until", "2025-01-01"]) == 0

    assert "materialized 0 profiles" in capsys.readouterr().out


@pytest.mark.parametrize("line", [
    "alice@example.org", '"alice@example.org"', '{"user_id": ["alice@example.org"], "event_time": "2026-06-01"}',
    '{"user_id": "u", "event_time": "2026-06-01", "traits": "alice@example.org"}',
])  # fmt: skip
def test_a_refused_line_is_not_quoted(line: str, project: pd.DataFrame, tmp_path: Path, capfd) -> None:
    (tmp_path / "lines").write_text(line, encoding="utf-8")

    assert materialize.main(["--events", "lines"]) == 2
    assert "alice" not in "".join(capfd.readouterr())


def test_lines_are_stored_and_bad_ones_are_named_by_number_and_field(
    project: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = '{"user_id": "new", "event_time": "2026-06-01T20:00:00Z", "item_id": "i1", "event_type": "play"}'
    skip = good.replace("play", "skip")  # params.yaml counts plays
    (tmp_path / "lines").write_text("\n".join([good, good.replace('"i1"', "7"), "{", skip, good]), encoding="utf-8")
    materialize.main([])
    capsys.readouterr()

    assert materialize.main(["--events", "lines"]) == 2

    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "error: line 2: item_id: expected text that is not blank, got int", "error: line 3: line: is not JSON",
    ]  # fmt: skip
    assert printed.out.splitlines() == ["stored 1 lines", "stored 2 lines", "stored 3 lines"]
    assert [event.item_id for event in stored("new", T + 300 * DAY).events] == ["i1"]


def test_lines_may_come_from_standard_input(project: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    line = '{"user_id": "new", "event_time": "2026-06-01", "traits": {"plan": "free"}}\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(line))

    assert materialize.main(["--events", "-"]) == 0
    assert profile.visible_traits(stored("new", T + 400 * DAY), T + 400 * DAY) == {"plan": "free"}


NO = {"user_id": "u3", "event_time": "2026-01-02T00:00:00Z", "consent": {"personalization": False}}


def consent_of(user: str) -> str:
    (reading,) = connect(SETTINGS.dataset, read_settings()).read([user], [CUT])
    return decide(reading.consent, PERSONALIZATION, now_us())


def test_a_no_outlives_each_way_to_materialize_again(project: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(json.dumps(NO) + "\n", encoding="utf-8")
    assert materialize.main([]) == materialize.main(["--events", "lines"]) == 0
    assert [consent_of(user) for user in ("u3", "u4", "nobody")] == ["denied", "not_asked", "not_asked"]

    (tmp_path / "older").write_text(
        json.dumps(NO | {"event_time": "2026-01-01T00:00:00Z", "consent": {"personalization": True}}), encoding="utf-8"
    )
    for arguments in ([], ["--until", "2026-01-15"], ["--events", "older"], ["--no-answer", "not-asked"]):
        assert materialize.main(arguments) == 0
        assert consent_of("u3") == "denied"

    for path in Path("out/state").glob("online.db*"):  # the profiles are lost
        path.unlink()
    assert materialize.main([]) == 0
    assert [consent_of(user) for user in ("u3", "u4")] == ["denied", "not_asked"]

    for path in Path("out/state").glob("online.consent.db*"):  # the answers are lost
        path.unlink()
    assert materialize.main([]) == 2
    assert materialize.main(["--no-answer", "not-asked"]) == 0
    assert [consent_of(user) for user in ("u3", "u4")] == ["denied", "denied"]


@pytest.mark.parametrize("served", ["deployments/DATASET.json", "edge/keys.json"])
def test_a_platform_that_has_served_creates_no_store_unless_it_is_known_whether_answers_were_lost(
    project: pd.DataFrame, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    evidence = Path("out/state", served.replace("DATASET", SETTINGS.dataset))
    evidence.parent.mkdir(parents=True)
    evidence.write_text("{}", encoding="utf-8")
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path}/typo.db")
    for _ in range(2):
        assert materialize.main([]) == 2
        assert "holds no answers to consent: it is new, or it lost them" in capsys.readouterr().err
    assert not any(tmp_path.glob("typo.*"))

    assert materialize.main(["--no-answer", "denied"]) == materialize.main([]) == 0
    store = connect(SETTINGS.dataset, StoreSettings(f"sqlite:///{tmp_path}/typo.db"))
    decisions = [decide(one.consent, PERSONALIZATION, now_us()) for one in store.read(["u3", "nobody"], [CUT] * 2)]
    assert decisions == ["denied", "denied"]


def test_a_new_store_in_which_a_line_is_missing_is_not_read(project: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(json.dumps(NO | {"consent": {"Personalization": False}}), encoding="utf-8")
    assert materialize.main(["--events", "lines"]) == 2
    with pytest.raises(StoreError, match="is incomplete"):
        stored("u3", CUT)
    (tmp_path / "lines").write_text(json.dumps(NO), encoding="utf-8")
    assert materialize.main(["--events", "lines", "--no-answer", "not-asked"]) == 0
    assert consent_of("u3") == "denied"


def test_answers_that_come_before_the_dataset_have_its_spelling_of_ids(project: pd.DataFrame, tmp_path: Path) -> None:
    description = Path("out/features/test/description.json")
    numeric = json.loads(description.read_text(encoding="utf-8")) | {"numeric_ids": ["user_id"]}
    description.write_text(json.dumps(numeric), encoding="utf-8")
    (tmp_path / "lines").write_text(json.dumps(NO | {"user_id": "7.0"}), encoding="utf-8")
    assert materialize.main(["--events", "lines"]) == 0
    assert [consent_of(user) for user in ("7", "7.0")] == ["denied", "not_asked"]


def test_from_a_restored_store_nobody_is_read_until_it_is_said_whether_its_answers_are_all(
    project: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yes, later_no = (NO | {"user_id": "u3", "event_time": f"2026-01-0{day}", "consent": {"personalization": day < 3}}
                     for day in (2, 3))  # fmt: skip
    (tmp_path / "yes").write_text(json.dumps(yes), encoding="utf-8")
    (tmp_path / "no").write_text(json.dumps(later_no), encoding="utf-8")
    assert materialize.main([]) == materialize.main(["--events", "yes"]) == 0
    save(Path("out/state"), tmp_path / "one.tar.gz")
    assert materialize.main(["--events", "no"]) == 0
    for loads, no_answer, expected in (("no", "not-asked", ["denied", "not_asked"]), (None, "denied", ["denied"] * 2)):
        restore(tmp_path / "one.tar.gz", Path("out/state"), replace=True)
        assert materialize.main([]) == 2
        assert "was restored from a backup, which lacks later answers" in capsys.readouterr().err
        with pytest.raises(StoreError, match="is incomplete"):
            stored("u3", CUT)
        events = ["--events", loads] if loads else []
        assert materialize.main([*events, "--no-answer", no_answer]) == materialize.main([]) == 0
        assert [consent_of(user) for user in ("u3", "u4")] == expected


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_store_restored_by_its_own_backup_is_read_again_once_it_is_said_what_holds(
    project: pd.DataFrame, tmp_path: Path, kind: str, request, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    if kind == "redis":
        request.getfixturevalue("emptied_redis")
    for name, time in (("yes", "2026-01-02T00:00:00Z"), ("later", to_iso(now_us() + MINUTE // 2))):
        yes = NO | {"event_time": time, "consent": {"personalization": True}}
        (tmp_path / name).write_text(json.dumps(yes), encoding="utf-8")
    assert materialize.main(["--restored"]) == 2, "nothing lies there"
    assert materialize.main(["--no-answer", "not-asked"]) == materialize.main(["--events", "yes"]) == 0
    assert consent_of("u3") == "granted"

    assert materialize.main(["--restored"]) == 0
    with pytest.raises(StoreError, match="is incomplete"):
        consent_of("u3")
    assert materialize.main([]) == 2
    assert "was restored from a backup, which lacks later answers" in capsys.readouterr().err
    assert materialize.main(["--no-answer", "denied"]) == 0
    assert [consent_of(user) for user in ("u3", "u4")] == ["denied", "denied"]
    assert materialize.main(["--events", "later"]) == 0
    assert consent_of("u3") == "granted"


def test_that_a_backup_was_restored_is_noted_before_answers_are_loaded() -> None:
    with pytest.raises(SystemExit):
        materialize.main(["--restored", "--no-answer", "denied"])


@pytest.fixture
def emptied_redis(project: pd.DataFrame, own_redis, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TIDEGATE_STORE", own_redis.url)
    return own_redis.url


def test_an_emptied_redis_is_materialized_only_if_it_is_known_whether_answers_were_lost(
    emptied_redis: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines").write_text(json.dumps(NO) + "\n", encoding="utf-8")
    for arguments in ([], ["--events", "lines"]):
        assert materialize.main(arguments) == 2
        assert "holds no answers to consent: it is new, or it lost them" in capsys.readouterr().err

    assert materialize.main(["--no-answer", "denied"]) == 0
    store = connect(SETTINGS.dataset, StoreSettings(emptied_redis))
    assert materialize.main([]) == 0  # stays as it was set
    decisions = [decide(one.consent, PERSONALIZATION, now_us()) for one in store.read(["u3", "nobody"], [CUT] * 2)]
    assert decisions == ["denied", "denied"]


def test_a_new_redis_is_materialized_and_its_answers_stay(emptied_redis: str, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(json.dumps(NO) + "\n", encoding="utf-8")
    assert materialize.main(["--events", "lines", "--no-answer", "not-asked"]) == 0
    assert materialize.main([]) == 0

    store = connect(SETTINGS.dataset, StoreSettings(emptied_redis))
    decisions = [decide(one.consent, PERSONALIZATION, now_us()) for one in store.read(["u3", "u4"], [CUT] * 2)]
    assert decisions == ["denied", "not_asked"]


def test_nobody_is_read_while_the_answers_of_a_new_store_are_loaded(
    project: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines").write_text(json.dumps(NO) + "\n", encoding="utf-8")

    def look(*arguments: object) -> list[str]:
        with pytest.raises(StoreError, match="is incomplete"):
            stored("u3", CUT)
        return materialization.write_lines(*arguments)

    monkeypatch.setattr(materialize, "write_lines", look)
    assert materialize.main(["--events", "lines"]) == 0
    assert consent_of("u3") == "denied"


def test_a_profile_older_than_the_ttl_is_not_served(project: pd.DataFrame) -> None:
    assert SETTINGS.online.ttl_days == 365
    materialize.main([])

    assert stored("u3", T + 300 * DAY) is not None
    assert stored("u3", T + 400 * DAY) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--until", "soon"], "--until: 'soon' is not an ISO 8601 time"),
        (["--events", "nowhere"], "--events is nowhere; there is no such file"),
    ],
)
def test_a_user_error_is_one_line(
    project: pd.DataFrame, arguments, message, capsys: pytest.CaptureFixture[str]
) -> None:
    assert materialize.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_without_features_the_command_to_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)

    assert materialize.main([]) == 2
    assert "run `python -m features.featurize`" in capsys.readouterr().err
