"""The audit passes a clean platform, tells of a leak with its rows, and stands only for what it looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_cut import TEST, cut_of, lay, made_events
from small_pipeline import inside as inside_of

from config import params
from config.paths import SPLIT
from data.columns import DAY
from data.products import write_table
from data.times import to_iso
from experiments import audit
from experiments.leakage.checks import OF_CUT, OF_SPLIT, run
from experiments.leakage.page import page
from features.sequences import Log


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the products of the made platform: not to be changed."""
    folder = tmp_path_factory.mktemp("clean")
    lay(folder, made_events())
    return folder


@pytest.fixture
def inside(products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    shutil.copytree(products, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TIDEGATE_COMMIT", "tested")
    return tmp_path / "here"


def settings() -> params.Params:
    return params.load()


@pytest.mark.parametrize("name", ["valid", "test"])
def test_every_check_passes_a_clean_platform_and_looks_at_something(name: str) -> None:
    at = cut_of(made_events(), name=name)
    checks = [*run(at, OF_SPLIT), *run(at, OF_CUT)]

    assert [check["check"] for check in checks if check["failed"]] == []
    assert [check["check"] for check in checks if not check["rows"]] == ["first appearance: rankings"]  # none lie there
    assert all(check["promise"].endswith(".") for check in checks)


def test_a_clean_platform_ends_with_0_and_says_so_on_its_page(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([]) == 0

    said = capsys.readouterr()
    assert said.out.startswith("audit: made: clean: 37 checks over both cuts in ")
    assert said.err == ""
    text = (inside / "out/experiments/audit.html").read_text()
    assert "CLEAN" in text
    assert "Offending rows" not in text


def test_a_leak_ends_with_1_and_is_told_with_its_rows(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = made_events()
    events.loc[len(events) - 1, "part"] = "train"
    write_table(events, inside / SPLIT / "events.parquet")

    assert audit.main([]) == 1

    last = events.iloc[-1]
    said = capsys.readouterr()
    assert said.err.startswith("audit: time order: parts (both): events lie in another part than their time: 1 rows, ")
    assert (
        f"user_id {last['user_id']}, item_id {last['item_id']}, event_time {to_iso(last['event_time'].value // 1000)}"
        in said.err
    )
    report = json.loads((inside / "out/experiments/audit.json").read_text())
    assert report["clean"] is False
    (found,) = next(check for check in report["checks"] if check["failed"])["findings"]
    assert found["examples"][0]["event_id"] == last["event_id"]
    text = page(report)
    assert "LEAKS" in text
    assert all(word in text for word in (last["event_id"], last["user_id"], "What to do:"))


def test_the_last_report_stands_for_the_very_products_that_it_is_of(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = audit.passed(settings())
    monkeypatch.setattr(audit, "report", lambda settings: pytest.fail("audited again"))

    assert audit.passed(settings()) == json.loads(json.dumps(first))


@pytest.mark.parametrize(
    "changed",
    ["out/data/split/events.parquet", "out/data/ingest/users.parquet", "out/features/valid/log.safetensors",
     "out/experiments/rankings/ease.parquet", "features/trends.py"],
)  # fmt: skip
def test_a_change_of_products_or_code_is_audited_anew(inside: Path, monkeypatch, changed: str) -> None:
    monkeypatch.setattr(params, "ROOT", inside)
    for made in ("out/experiments/rankings/ease.parquet", "features/trends.py"):
        (inside / made).parent.mkdir(parents=True, exist_ok=True)
        (inside / made).write_bytes(b"1")
    before = audit.fingerprint(settings())
    assert audit.fingerprint(settings()) == before

    (inside / changed).write_bytes((inside / changed).read_bytes() + b" ")

    assert audit.fingerprint(settings()) != before


def test_a_change_of_settings_is_audited_anew(inside: Path) -> None:
    chosen = settings()
    fewer = chosen.model_copy(update={"audit": chosen.audit.model_copy(update={"travelled_cases": 1})})

    assert audit.fingerprint(chosen) != audit.fingerprint(fewer)
    assert audit.fingerprint(chosen) != audit.fingerprint(chosen.model_copy(update={"seed": 7}))


def test_a_leak_in_the_code_reaches_the_report(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Log.before
    monkeypatch.setattr(Log, "before", lambda self, time_us: honest(self, time_us + DAY))

    report = audit.report(settings())

    assert any(line.startswith("time order: training (test): training reads events at or after the cut, "
                               f"{to_iso(TEST)}: ") for line in audit.failures(report))  # fmt: skip


def test_the_page_shows_names_as_they_are_and_fetches_nothing() -> None:
    finding = {"what": "<b>", "rows": 1, "examples": [{"user_id": "<i>"}], "meaning": "m", "remedy": "r", "fails": True}
    check = {"check": "c", "cut": "both", "promise": "p", "failed": True, "seconds": 0.0, "rows": 1, "unit": "u",
             "findings": [finding], "measured": []}  # fmt: skip
    known = ("dataset", "dataset_hash", "split_id", "valid_start", "test_start", "audited", "commit", "date")
    text = page(dict.fromkeys(known, "<script>") | {"clean": False, "seconds": 0.1, "checks": [check]})

    assert "<b>" not in text.replace("<b>What to do:</b>", "")
    assert "<i>" not in text
    assert "<script" not in text
    assert "http" not in text
    assert "&lt;i&gt;" in text


def test_a_table_without_a_stage_is_named(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "out/features/valid/description.json").unlink()

    assert audit.main([]) == 2
    assert "out/features/valid holds no features" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_platform_with_measured_models_is_clean_and_its_lists_are_looked_at(pipeline: Path) -> None:
    with inside_of(pipeline):
        report = audit.report(settings())

    assert audit.failures(report) == []
    listed = {
        check["cut"]: check["rows"] for check in report["checks"] if check["check"] == "first appearance: rankings"
    }
    assert listed["valid"] == 0
    assert listed["test"] > 100_000


def test_events_of_the_made_platform_share_times_and_lie_on_both_sides_of_both_cuts() -> None:
    events = made_events()

    assert events.duplicated(["user_id", "event_time"]).sum() >= 40
    assert events["part"].value_counts().min() > 100
    assert isinstance(events["event_time"].dtype, pd.DatetimeTZDtype)
