"""Trace goes from an answer back to its events, impact from data forward to answers; both name what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from collected_events import CollectedEvents, play
from served_platform import edge, log, platform, rewrite

from experiments import impact, trace
from serving.backup import restore, save
from serving.deployment import promotion, registry
from serving.edge import user_keys

pytestmark = pytest.mark.slow

THEN = "2026-02-20T08:09:10Z"
REQUESTS = {
    "stored": {"user_id": "u000001", "k": 5},
    "then": {"user_id": "u000001", "k": 5, "time": THEN},
    "own_history": {"history": [{"item_id": "m00003", "event_time": "2026-01-05T10:00:00Z"}], "k": 7},
    "unknown": {"user_id": "nobody-we-know", "k": 5},
    "denied": {"user_id": "u000002", "k": 6},
}


@pytest.fixture(scope="module")
def answered(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with platform(pipeline, tmp_path_factory.mktemp("traced")) as folder:
        with edge(folder) as (running, worker):
            for name, body in REQUESTS.items():
                running.ask(body | {"request_id": name})
            worker.stop()
            running.service.pipeline.fallback.popular = None
            running.ask({"k": 8, "request_id": "static"})
        yield folder


@pytest.fixture
def here(answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The platform with a served log of one's own to break."""
    for name in ("edge", "edge-keys"):
        shutil.copytree(answered / name, tmp_path / name)
    (tmp_path / "out").mkdir()
    for name in ("out/data", "out/features", "params.yaml"):
        (tmp_path / name).symlink_to(answered / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(verb, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """What a verb found, as it writes it in JSON."""
    assert verb.main([*arguments, "--json", "--served", "edge/served"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(verb, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert verb.main([*arguments, "--served", "edge/served"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def events() -> pd.DataFrame:
    return pd.read_parquet("out/data/split/events.parquet")


def test_the_whole_chain_of_an_answer_is_shown(here: Path, capsys) -> None:
    found = run(trace, capsys, "then")

    line = next(
        one
        for one in map(json.loads, log(here).read_text(encoding="utf-8").splitlines())
        if one["request_id"] == "then"
    )
    manifest = json.loads(Path(here / "out/data/split/manifest.json").read_text(encoding="utf-8"))
    assert [row["item_id"] for row in found["answer"]["rows"]] == line["items"]
    assert (found["version"]["version"], found["version"]["aliases"]) == ("1", ["champion"])
    assert found["version"]["artifact"] == registry.find_version("demo", "1").artifact
    assert (found["gate report"]["verdict"], found["gate report"]["reason"]) == ("PROMOTE", "better by 5%")
    assert found["run"]["params"]["name"] == "two_tower"
    assert found["code"]["commit"] == "tested"
    assert found["code"]["lock of this clone"] == "the same"
    assert found["dataset version"]["hash"] == manifest["dataset_hash"] == line["dataset_version"]
    assert found["dataset version"]["in this clone"] is True
    own = events()[lambda all_of_them: all_of_them["user_id"] == "u000001"]
    before = own[own["event_time"] < pd.Timestamp(THEN)].sort_values(["event_time", "event_id"], ascending=False)
    assert [row["event_id"] for row in found["events"]["rows"]] == before["event_id"].tolist()
    assert 0 < len(before) < len(own)
    assert found["events"]["as the answer read them"] == "yes, by their digest"
    assert not [name for name, part in found.items() if name != "title" and part["note"]]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("own_history", "the request had its own history, which the served log does not hold"),
        ("denied", "the edge withheld the user from the worker, so the answer uses none of their events"),
        ("unknown", "the online store does not know this user"),
        ("static", "no worker computed this answer: the edge gave a list that it had"),
    ],
)
def test_an_answer_without_stored_events_says_why(here: Path, capsys, name: str, note: str) -> None:
    found = run(trace, capsys, name)

    assert (found["events"]["note"], found["events"]["rows"]) == (note, [])
    assert found["version"]["version"] == "1"
    assert "u000002" not in json.dumps(found)


def test_without_the_secret_nobody_is_named(here: Path, capsys) -> None:
    (here / "edge-keys/1.key").unlink()
    found = run(trace, capsys, "stored")

    assert found["events"]["note"].startswith("the user is unknown: the key of the log's pseudonyms is missing")
    assert "u000001" not in json.dumps(found)


def test_an_answer_is_traced_as_before_after_the_state_was_lost_and_restored(
    here: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = here / "state"
    shutil.copytree(here / "edge", state / "edge")
    shutil.copytree(here / "edge-keys", state / "keys/users")
    monkeypatch.delenv("TIDEGATE_EDGE_USER_KEYS")
    monkeypatch.setenv("TIDEGATE_STATE", str(state))

    def traced() -> dict:
        assert trace.main(["stored", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    before = traced()
    save(state, here / "backup.tar.gz")
    shutil.rmtree(state)
    restore(here / "backup.tar.gz", state)

    assert traced() == before
    assert before["events"]["as the answer read them"] == "yes, by their digest"


def test_an_answer_is_traced_as_before_after_its_key_was_replaced(here: Path, capsys) -> None:
    before = run(trace, capsys, "stored")
    assert user_keys.main(["rotate"]) == 0
    capsys.readouterr()

    assert run(trace, capsys, "stored") == before
    assert before["events"]["user"] == "u000001"
    assert sorted(file.name for file in (here / "edge-keys").iterdir()) == ["1.key", "2.key"]


def test_events_that_differ_from_those_read_are_reported(here: Path, capsys) -> None:
    rewrite(here, "stored", lambda line: line | {"inputs": line["inputs"] | {"history": "of others"}})
    found = run(trace, capsys, "stored")

    assert found["events"]["as the answer read them"] == "not shown"
    assert found["events"]["note"] == "what is here is not what the answer read: history differ"


@pytest.mark.parametrize(("model_version", "message"), [("7.0", "demo 7 is not registered"), ("", "names no version")])
def test_a_version_missing_from_the_registry_is_named_with_the_place_searched(
    here: Path, capsys, model_version: str, message: str
) -> None:
    rewrite(here, "stored", lambda line: line | {"model_version": model_version})
    found = run(trace, capsys, "stored")

    assert message in found["version"]["note"]
    assert len(found["events"]["rows"]) > 0


def test_searching_creates_no_registry(here: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/none.db")

    assert run(trace, capsys, "stored")["version"]["note"].startswith("there is no registry at sqlite:///")
    assert refused(impact, capsys, "--item", "m00001").startswith("there is no registry at sqlite:///")
    assert not (here / "none.db").exists()


def test_a_changed_report_or_artifact_is_reported(here: Path, capsys) -> None:
    version = registry.find_version("demo", "1")
    folder = Path(registry.registry_client().get_run(version.run_id).info.artifact_uri.removeprefix("file://"))
    tags = (
        registry.registry_client().get_model_version("demo", "1").tags
    )  # other platforms of this run have theirs in the same folder
    report = folder / tags[promotion.REPORT_TAG].removeprefix(f"runs:/{version.run_id}/")
    manifest = folder / f"artifact-{version.artifact[:12]}" / "manifest.json"
    kept = {path: path.read_text(encoding="utf-8") for path in (report, manifest)}
    try:
        report.write_text(json.dumps(json.loads(kept[report]) | {"reason": "better than it was"}), encoding="utf-8")
        manifest.write_text(json.dumps(json.loads(kept[manifest]) | {"commit": "forged"}), encoding="utf-8")
        found = run(trace, capsys, "stored")
    finally:
        for path, text in kept.items():
            path.write_text(text, encoding="utf-8")

    assert "changed after the gate signed it" in found["gate report"]["note"]
    assert "is not the one that was registered" in found["artifact"]["note"]


def test_an_unknown_request_names_the_place_searched_and_a_broken_line_hides_none(here: Path, capsys) -> None:
    with log(here).open("a", encoding="utf-8") as file:
        file.write('{"request_id":"stored","items":["m0')

    assert run(trace, capsys, "stored")["answer"]["request id"] == "stored"
    message = refused(trace, capsys, "never")
    assert message.startswith("no answer in edge/served has the request id 'never': --served names another folder, and")


def test_a_repeated_request_id_is_reported(here: Path, capsys) -> None:
    rewrite(here, "own_history", lambda line: line | {"request_id": "stored"})

    assert run(trace, capsys, "stored")["title"] == "trace of stored, the last of 2 answers with this id"


def test_page_and_text_hold_what_json_does_and_escape_markup(here: Path, capsys) -> None:
    rewrite(here, "stored", lambda line: line | {"reason": "<script>alert(1)</script>"})
    assert trace.main(["stored", "--served", "edge/served", "--html", "made/trace.html"]) == 0
    page = Path("made/trace.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert all(f"<h2>{name}</h2>" in page for name in ("answer", "version", "gate report", "run", "code", "events"))

    assert trace.main(["stored", "--served", "edge/served"]) == 0
    text = capsys.readouterr().out
    assert "\nDATASET VERSION\n" in text
    assert max(map(len, text.splitlines())) < 160


def test_an_event_reaches_the_fits_after_it_and_the_answers_to_its_user(here: Path, capsys) -> None:
    own = events()[lambda all_of_them: all_of_them["user_id"] == "u000001"].sort_values("event_time")
    early = run(impact, capsys, "--event", own["event_id"].iloc[0])
    late = run(impact, capsys, "--event", own[own["part"] == "test"]["event_id"].iloc[-1])

    assert (early["event"]["user"], early["event"]["item"]) == ("u000001", own["item_id"].iloc[0])
    assert [row["version"] for row in early["versions"]["rows"]] == ["1"]
    assert {row["name"] for row in early["runs"]["rows"]} >= {"two_tower · valid", "two_tower · test"}
    assert late["versions"]["rows"] == late["runs"]["rows"] == []
    assert [row["request_id"] for row in early["answers that could read it"]["rows"]] == ["then", "stored"]
    assert [row["request_id"] for row in late["answers that could read it"]["rows"]] == ["stored"]
    assert early["versions"]["note"].startswith("TorchServe does not answer at ")


def test_a_position_in_the_event_log_leads_to_what_its_event_reaches(
    answered: Path, here: Path, tmp_path: Path, capsys
) -> None:
    event_id = events()["event_id"].iloc[0]
    by_id = run(impact, capsys, "--event", event_id)
    collected = CollectedEvents(tmp_path / "collect")
    collected.add(1, play("other"), play(event_id))
    collected.write(24)
    (tmp_path / "out/data").unlink()
    (tmp_path / "out/data/ingest").mkdir(parents=True)
    (tmp_path / "out/data/split").symlink_to(answered / "out/data/split")
    source = {"name": "events", "files": [str(collected.partitions)], "positions": ["0:1 to 0:2"]}
    (tmp_path / "out/data/ingest/manifest.json").write_text(json.dumps({"source": source}), encoding="utf-8")

    by_position = run(impact, capsys, "--event", "0:2")
    by_id.pop("title"), by_position.pop("title")
    assert by_position == by_id
    assert refused(impact, capsys, "--event", "0:1").startswith("there is no event '0:1' among the")
    assert refused(impact, capsys, "--event", "0:3") == "the dataset read positions 0:1 to 0:2, not 0:3"


def test_a_user_an_item_and_a_dataset_version_reach_their_answers(here: Path, capsys) -> None:
    answers = {"u000001": ["then", "stored"], "u000003": []}
    for user, reached in answers.items():
        found = run(impact, capsys, "--user", user)
        assert [row["request_id"] for row in found["answers to this user"]["rows"]] == reached
        assert found["user"]["events"] == len(events()[lambda table, user=user: table["user_id"] == user])

    lines = [json.loads(line) for line in log(here).read_text(encoding="utf-8").splitlines()]
    item = lines[0]["items"][0]
    found = run(impact, capsys, "--item", item)
    listed = [line["request_id"] for line in lines if item in line["items"]]
    assert [row["request_id"] for row in found["answers that list it"]["rows"]] == listed[::-1]
    assert [row["version"] for row in found["versions"]["rows"]] == ["1"]

    unheard = run(impact, capsys, "--user", "nobody-we-know")
    assert unheard["user"]["note"].startswith("there is no user 'nobody-we-know' among the ")
    assert [row["request_id"] for row in unheard["answers to this user"]["rows"]] == ["unknown"]

    version = lines[0]["dataset_version"]
    found = run(impact, capsys, "--dataset", version[:8])
    assert (found["dataset version"]["hash"], found["dataset version"]["in this clone"]) == (version[:8], True)
    assert [row["version"] for row in found["versions"]["rows"]] == ["1"]
    assert len(found["runs"]["rows"]) >= 2
    assert found["answers by versions fitted on it"]["answers"] == len(lines)

    unknown = run(impact, capsys, "--dataset", "0123456789")
    assert unknown["runs"]["rows"] == unknown["versions"]["rows"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--event", "none"), "there is no event 'none' among the 2"),
        (("--user", "none"), "there is no user 'none' among the 2"),
        (("--item", "none"), "there is no item 'none' among the 2"),
        (("--dataset", "01"), "--dataset is '01'; expected a hash, or its first 6 digits or more"),
    ],
)
def test_unknown_data_is_one_line_with_the_place_searched(here: Path, capsys, arguments, message: str) -> None:
    assert refused(impact, capsys, *arguments).startswith(message)
