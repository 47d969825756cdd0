"""The audit passes a clean platform, reports a leak with its rows, and covers only what it looked at."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_cut import TEST, cut_of, lay, made_events
from small_pipeline import inside as inside_of

from config import params
from config.paths import SPLIT
from data.columns import DAY
from data.tables import write_table
from data.times import to_iso
from experiments import audit
from experiments.leakage import report as leakage_report
from experiments.leakage.report import CUT_CHECKS, SPLIT_CHECKS, page, run_checks
from features.sequences import InteractionLog
from training import provenance


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
    monkeypatch.setattr(provenance, "checkout", lambda: ("tested", []))
    return tmp_path / "here"


def settings() -> params.Params:
    return params.load()


@pytest.mark.parametrize("name", ["valid", "test"])
def test_every_check_passes_a_clean_platform_and_looks_at_something(name: str) -> None:
    at = cut_of(made_events(), name=name)
    checks = [*run_checks(at, SPLIT_CHECKS), *run_checks(at, CUT_CHECKS)]

    assert [check["check"] for check in checks if check["failed"]] == []
    assert [check["check"] for check in checks if not check["rows"]] == ["first appearance: rankings"]  # none lie there
    assert all(check["promise"].endswith(".") for check in checks)


def test_a_clean_platform_exits_with_0(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([]) == 0

    printed = capsys.readouterr()
    assert re.match(
        r"audited made in [\d.]+ s: no leaks in 33 checks, 1 not decided: first appearance: rankings \(test\); "
        r"report: out/experiments/audit\.html",
        printed.out,
    )
    assert printed.err == ""
    text = (inside / "out/experiments/audit.html").read_text(encoding="utf-8")
    assert "no leaks in 33 checks, 1 not decided" in text
    assert text.count("<td>not decided") == 1  # no model was evaluated here
    assert text.count("<td>passed") == 33
    assert "leak</td>" not in text


def test_a_leak_exits_with_1_and_is_printed_with_its_rows(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = made_events()
    events.loc[len(events) - 1, "part"] = "train"
    write_table(inside / SPLIT / "events.parquet", events)

    assert audit.main([]) == 1

    last = events.iloc[-1]
    printed = capsys.readouterr()
    assert printed.err.startswith(
        "leak: time order: parts (both): events are in another part than that of their time: 1 rows, "
    )
    assert (
        f"user_id {last['user_id']}, item_id {last['item_id']}, event_time {to_iso(last['event_time'].value // 1000)}"
        in printed.err
    )
    report = json.loads((inside / "out/experiments/audit.json").read_text(encoding="utf-8"))
    assert report["clean"] is False
    (found,) = next(check for check in report["checks"] if check["failed"])["findings"]
    assert found["examples"][0]["event_id"] == last["event_id"]
    text = page(report)
    assert "1 leaks in 33 checks" in text
    assert all(word in text for word in (last["event_id"], last["user_id"], "Run <code>python -m data.split</code>"))


def test_the_last_report_is_reused_for_the_same_products(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = leakage_report.up_to_date(settings())
    monkeypatch.setattr(leakage_report, "audit", lambda settings: pytest.fail("audited again"))

    assert leakage_report.up_to_date(settings()) == json.loads(json.dumps(first))


@pytest.mark.parametrize(
    "changed",
    ["out/data/split/events.parquet", "out/data/ingest/users.parquet", "out/features/valid/log.safetensors",
     "out/experiments/rankings/ease.parquet", "features/trends.py"],
)  # fmt: skip
def test_a_change_of_products_or_code_is_audited_again(inside: Path, monkeypatch, changed: str) -> None:
    monkeypatch.setattr(leakage_report, "ROOT", inside)
    for made in ("out/experiments/rankings/ease.parquet", "features/trends.py"):
        (inside / made).parent.mkdir(parents=True, exist_ok=True)
        (inside / made).write_bytes(b"1")
    before = leakage_report.fingerprint(settings())
    assert leakage_report.fingerprint(settings()) == before

    (inside / changed).write_bytes((inside / changed).read_bytes() + b" ")

    assert leakage_report.fingerprint(settings()) != before


def test_a_change_of_settings_is_audited_again(inside: Path) -> None:
    chosen = settings()
    fewer = chosen.model_copy(update={"audit": chosen.audit.model_copy(update={"travelled_cases": 1})})

    assert leakage_report.fingerprint(chosen) != leakage_report.fingerprint(fewer)
    assert leakage_report.fingerprint(chosen) != leakage_report.fingerprint(chosen.model_copy(update={"seed": 7}))


def test_a_leak_in_the_code_reaches_the_report(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = InteractionLog.before
    monkeypatch.setattr(InteractionLog, "before", lambda self, time_us: original(self, time_us + DAY))

    report = leakage_report.audit(settings())

    assert any(line.startswith("time order: training (test): training reads events at or after the cut, "
                               f"{to_iso(TEST)}: ") for line in leakage_report.failures(report))  # fmt: skip


def test_the_page_escapes_names_and_fetches_nothing() -> None:
    finding = {"what": "<b>", "rows": 1, "examples": [{"user_id": "<i>"}], "fails": True}
    check = {"check": "c", "cut": "both", "promise": "p", "advice": "a", "failed": True, "decided": True, "seconds": 0.0, "rows": 1, "unit": "u",
             "findings": [finding], "measured": []}  # fmt: skip
    known = ("dataset", "dataset_hash", "split_id", "valid_start", "test_start", "audited", "commit", "date")
    text = page(dict.fromkeys(known, "<script>") | {"clean": False, "seconds": 0.1, "checks": [check]})

    assert "<b>" not in text
    assert "<i>" not in text
    assert "<script" not in text
    assert "http" not in text
    assert "&lt;i&gt;" in text


def test_a_missing_product_is_named(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "out/features/valid/description.json").unlink()

    assert audit.main([]) == 2
    assert "out/features/valid holds no features" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_platform_with_measured_models_is_clean_and_its_lists_are_looked_at(pipeline: Path) -> None:
    with inside_of(pipeline):
        report = leakage_report.audit(settings())

    assert leakage_report.failures(report) == []
    listed = {
        check["cut"]: check["rows"] for check in report["checks"] if check["check"] == "first appearance: rankings"
    }
    assert listed.keys() == {"test"}, "nothing is ranked at the validation cut"
    assert listed["test"] > 100_000


def test_events_of_the_made_platform_share_times_and_lie_on_both_sides_of_both_cuts() -> None:
    events = made_events()

    assert events.duplicated(["user_id", "event_time"]).sum() >= 40
    assert events["part"].value_counts().min() > 100
    assert isinstance(events["event_time"].dtype, pd.DatetimeTZDtype)
