"""Run the leakage audit and report it: JSON for the gate, an HTML page for people.

Code that relies on the audit, as the gate does, calls `up_to_date(settings)`. In the report, "clean" is the answer,
"audited" the hash of everything that was looked at, and `failures(report)` gives a line per failed finding.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from config import params
from config.paths import EXPERIMENTS, FEATURES, INGESTED, RANKINGS, ROOT, SPLIT
from data.files import json_hash, read_json, write_text
from data.tables import read_table
from data.times import now_iso
from experiments.leakage import event_order, feature_checks, target_probe
from experiments.leakage.cut import AuditedCut, Outcome
from experiments.lineage.report import ReportPart
from experiments.lineage.report import page as parts_page
from features import feature_files
from features.feature_files import CUTS, FULL
from training import provenance
from training.models.artifact import hash_file

REPORT, PAGE = EXPERIMENTS / "audit.json", EXPERIMENTS / "audit.html"
FACTS = ("dataset", "dataset_hash", "split_id", "valid_start", "test_start", "date", "commit", "seconds", "audited")
CODE = ("config", "data", "features", "training", "experiments")  # the checks, and the code that they call

LeakageCheck = Callable[[AuditedCut], Outcome]  # its docstring: the promise, then why it matters and what to do
RANKINGS_CHECK = "first appearance: rankings"  # models are ranked at the test cut only
SPLIT_CHECKS: dict[str, LeakageCheck] = {
    "time order: total order": event_order.total_order,
    "time order: duplicates": event_order.duplicates,
    "time order: parts": event_order.parts,
}
CUT_CHECKS: dict[str, LeakageCheck] = {
    "time order: same split": event_order.same_split,
    "time order: log": event_order.same_log,
    "time order: training": event_order.training,
    "fitted on the past: vocabulary": feature_checks.fitted_vocabulary,
    "fitted on the past: encoders": feature_checks.fitted_encoders,
    "fitted on the past: content": feature_checks.fitted_content,
    "fitted on the past: trends": feature_checks.fitted_trends,
    "first appearance: trends": feature_checks.future_trends,
    RANKINGS_CHECK: feature_checks.future_rankings,
    "ties: evaluation": event_order.evaluation_histories,
    "ties: encoded": event_order.encoded_histories,
    "ties: training questions": event_order.training_questions,
    "ties: training batches": feature_checks.training_batches,
    "sessions": event_order.spanning_sessions,
    "time travel": feature_checks.time_travel,
    "target probe": target_probe.probe,
}
NEED_LATER_EVENTS = {
    RANKINGS_CHECK, "ties: evaluation", "ties: encoded", "sessions", "time travel", "target probe",
}  # fmt: skip
FULL_CHECKS = {name: check for name, check in CUT_CHECKS.items() if name not in NEED_LATER_EVENTS}


# --- running


def audit(settings: params.Params) -> dict:
    """Audit the products in this folder."""
    begin = time.perf_counter()
    cuts = read_cuts(settings)
    checks = run_checks(cuts[0], SPLIT_CHECKS, "both")
    for cut in cuts:
        checks += run_checks(
            cut, {name: one for name, one in CUT_CHECKS.items() if name != RANKINGS_CHECK or cut.name == "test"}
        )
    known = {key: cuts[0].manifest[key] for key in FACTS[:5]}
    return known | {
        "clean": not any(check["failed"] for check in checks),
        "audited": fingerprint(settings),
        "commit": provenance.commit(),
        "date": now_iso(),
        "seconds": round(time.perf_counter() - begin, 1),
        "checks": checks,
    }


def up_to_date(settings: params.Params) -> dict:
    """The last report if it covers exactly these products, code and settings, else a new one, which is written."""
    if REPORT.exists():
        last = json.loads(REPORT.read_text(encoding="utf-8"))
        if last["audited"] == fingerprint(settings):
            return last
    report = audit(settings)
    write(report)
    return report


def audit_full(settings: params.Params) -> dict:
    """Audit the features of all events, which a refit reads, as far as no later events are needed: {"clean", "checks"}."""
    (cut,) = read_cuts(settings, (FULL,))
    checks = run_checks(cut, FULL_CHECKS)
    return {"clean": not any(check["failed"] for check in checks), "checks": checks}


def run_checks(cut: AuditedCut, checks: Mapping[str, LeakageCheck], cut_name: str | None = None) -> list[dict]:
    """The outcome of each check on a cut, as plain data."""
    rows = []
    for name, check in checks.items():
        begin, (promise, _, advice) = time.perf_counter(), (inspect.getdoc(check) or "").partition("\n")
        outcome = check(cut)
        rows.append({
            "check": name,
            "cut": cut_name or cut.name,
            "promise": promise,
            "advice": " ".join(advice.split()),
            "failed": any(finding.fails for finding in outcome.findings),
            "decided": outcome.rows > 0 or any(finding.fails for finding in outcome.findings),
            "seconds": round(time.perf_counter() - begin, 2),
            **asdict(outcome),
        })  # fmt: skip
    return rows


def read_cuts(settings: params.Params, names: Sequence[str] = CUTS) -> list[AuditedCut]:
    """Read the products of cuts.

    Raises:
        UserError: a stage has not run; the text names it.
    """
    events = read_table(SPLIT / "events.parquet", "python -m data.split")
    manifest = read_json(SPLIT / "manifest.json", "python -m data.split")
    users, items = (read_table(INGESTED / f"{name}.parquet", "python -m data.ingest") for name in ("users", "items"))
    rankings = {path.stem: path for path in sorted(RANKINGS.glob("*.parquet")) if path.stem != "items"}
    return [
        AuditedCut(name, events, users, items, manifest, feature_files.load_features(FEATURES / name), settings,
                   rankings if name == "test" else {})
        for name in names
    ]  # fmt: skip


def fingerprint(settings: params.Params) -> str:
    """Hash of everything that a report covers: products, code and settings."""
    files = [*SPLIT.glob("*"), *INGESTED.glob("*.parquet"), *RANKINGS.glob("*.parquet")]
    files += [path for name in CUTS for path in (FEATURES / name).glob("*")]
    code = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    return json_hash({
        "files": {path.as_posix(): hash_file(path) for path in files},
        "code": {path.relative_to(ROOT).as_posix(): hash_file(path) for path in code},
        "settings": settings.model_dump(mode="json", include={"audit", "featurize", "train", "seed"}),
    })  # fmt: skip


def failures(report: Mapping) -> list[str]:
    """One line for each finding that fails the audit, with its first row."""
    return [
        f"{check['check']} ({check['cut']}): {finding['what']}: {finding['rows']:,} rows"
        + "".join(f", {name} {value}" for row in finding["examples"][:1] for name, value in row.items())
        for check in report["checks"]
        for finding in check["findings"]
        if finding["fails"]
    ]


def undecided(report: Mapping) -> list[str]:
    """The checks that had nothing to check, as `check (cut)`: they neither pass nor fail."""
    return [f"{check['check']} ({check['cut']})" for check in report["checks"] if not check["decided"]]


def result_text(report: Mapping) -> str:
    """How many checks found a leak, passed, or could not be decided."""
    failed, open_checks = sum(check["failed"] for check in report["checks"]), undecided(report)
    text = f"{failed or 'no'} leaks in {len(report['checks']) - len(open_checks)} checks"
    return text + (f", {len(open_checks)} not decided: {', '.join(open_checks)}" if open_checks else "")


def write(report: dict) -> None:
    """Write audit.json and audit.html."""
    EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    write_text(REPORT, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(PAGE, page(report))


def page(report: dict) -> str:
    """The report as an HTML page: the result, the findings with their rows, every check, what the probe measured."""
    checks = report["checks"]
    facts = {key: report[key] for key in FACTS}
    findings = [
        ReportPart(
            finding["what"],
            {"result": "leak" if finding["fails"] else "worth knowing", "check": check["check"], "cut": check["cut"],
             "rows": finding["rows"]},
            finding["examples"],
            check["advice"],
        )
        for check in sorted(checks, key=lambda check: not check["failed"])
        for finding in check["findings"]
    ]  # fmt: skip
    rows = [
        {"check": check["check"], "cut": check["cut"], "promise": check["promise"],
         "looked at": f"{check['rows']:,} {check['unit']}",
         "outcome": "leak" if check["failed"] else "passed" if check["decided"] else "not decided", "s": check["seconds"]}
        for check in checks
    ]  # fmt: skip
    measured = [
        ReportPart(f"{check['check']} ({check['cut']}): duels won", rows=check["measured"])
        for check in checks
        if check["measured"]
    ]
    note = "A check is not decided if there was nothing to check." if undecided(report) else ""
    parts = [ReportPart(result_text(report), facts, note=note), *findings, ReportPart("checks", rows=rows), *measured]
    return parts_page(f"Leakage audit of {report['dataset']}", parts)
