"""VERB audit: does anything that a model saw lie in its future? A report with the offending rows.

Who rests a decision on it, as the gate does, asks `passed(settings)`: the report of the products that lie here, the
last one if it is of these very products, code and settings, else one made now. `report["clean"]` is the answer,
`report["audited"]` the hash of all that was looked at, `failures(report)` one line for each finding that fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from config import params
from config.command import exits_cleanly
from config.paths import EXPERIMENTS, FEATURES, INGESTED, RANKINGS, ROOT, SPLIT
from data.fingerprint import json_hash
from data.products import read_json, read_table
from experiments.leakage.checks import OF_CUT, OF_FULL, OF_SPLIT, run
from experiments.leakage.cut import Cut
from experiments.leakage.page import page
from features import feature_files
from features.featurize import CUTS, FULL
from training import provenance

CODE = ("config", "data", "features", "training", "experiments")  # the checks, and what they call


def read(settings: params.Params, names: Sequence[str] = CUTS) -> list[Cut]:
    """Cuts of the products that lie here.

    Raises:
        UserError: a stage has not run; the text names it.
    """
    events = read_table(SPLIT / "events.parquet", "python -m data.split")
    manifest = read_json(SPLIT / "manifest.json", "python -m data.split")
    users, items = (read_table(INGESTED / f"{name}.parquet", "python -m data.ingest") for name in ("users", "items"))
    measured = {path.stem: path for path in sorted(RANKINGS.glob("*.parquet")) if path.stem != "items"}
    return [
        Cut(
            name,
            events,
            users,
            items,
            manifest,
            feature_files.load(FEATURES / name),
            settings,
            measured if name == "test" else {},
        )
        for name in names
    ]


def fingerprint(settings: params.Params) -> str:
    """Hash of everything that a report is of: products, code and settings."""
    files = [*SPLIT.glob("*"), *INGESTED.glob("*.parquet"), *RANKINGS.glob("*.parquet")]
    files += [path for name in CUTS for path in (FEATURES / name).glob("*")]
    code = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    return json_hash({
        "files": {path.as_posix(): _hash(path) for path in files},
        "code": {path.relative_to(ROOT).as_posix(): _hash(path) for path in code},
        "settings": settings.model_dump(mode="json", include={"audit", "featurize", "train", "seed"}),
    })  # fmt: skip


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def report(settings: params.Params) -> dict:
    """Audit the products that lie here."""
    begun = time.perf_counter()
    cuts = read(settings)
    checks = [*run(cuts[0], OF_SPLIT), *(one for at in cuts for one in run(at, OF_CUT))]
    known = {key: cuts[0].manifest[key] for key in ("dataset", "dataset_hash", "split_id", "valid_start", "test_start")}
    return known | {
        "clean": not any(check["failed"] for check in checks),
        "audited": fingerprint(settings),
        "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(time.perf_counter() - begun, 1),
        "settings": settings.audit.model_dump() | {"seed": settings.seed},
        "checks": checks,
    }


def passed(settings: params.Params) -> dict:
    """The report of what lies here: the last one where it still stands, else one made and written now."""
    path = EXPERIMENTS / "audit.json"
    if path.exists():
        last = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(last, dict) and last.get("audited") == fingerprint(settings):
            return last
    made = report(settings)
    write(made)
    return made


def of_full(settings: params.Params) -> dict:
    """What can be asked of the features that a refit on all events reads: {"clean", "checks"}."""
    (at,) = read(settings, (FULL,))
    checks = list(run(at, OF_FULL))
    return {"clean": not any(check["failed"] for check in checks), "checks": checks}


def failures(made: dict) -> list[str]:
    """One line for each finding that fails an audit."""
    return [
        f"{check['check']} ({check['cut']}): {found['what']}: {found['rows']:,} rows{_such_as(found['examples'])}"
        for check in made["checks"]
        for found in check["findings"]
        if found["fails"]
    ]


def _such_as(examples: list[dict]) -> str:
    return ", such as " + ", ".join(f"{name} {value}" for name, value in examples[0].items()) if examples else ""


def write(made: dict) -> None:
    """out/experiments/audit.json and .html."""
    EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (EXPERIMENTS / "audit.json").write_text(text, encoding="utf-8")
    (EXPERIMENTS / "audit.html").write_text(page(made), encoding="utf-8")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.audit",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Exit code 1 on a finding that fails.",
    )
    parser.parse_args(argv)
    made = report(params.load())
    write(made)
    found = failures(made)
    for line in found:
        print(f"audit: {line}", file=sys.stderr)
    outcome = f"{len(found)} findings" if found else "clean"
    print(f"audit: {made['dataset']}: {outcome}: {len(made['checks'])} checks over both cuts in {made['seconds']} s -> "
          f"{EXPERIMENTS}/audit.html, .json")  # fmt: skip
    return 0 if made["clean"] else 1


if __name__ == "__main__":
    sys.exit(main())
