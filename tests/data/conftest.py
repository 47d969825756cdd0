"""Settings and files for tests of what reads and cleans data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from table_files import PLAIN

from config import params
from data.readers.sources import Source, read_source

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest remembers that a dataset had a consent column: another test's dataset of this name must not count."""
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def ingest_settings() -> Callable[..., params.Ingest]:
    """The section `ingest` for a foreign source, with the given values changed."""
    plain = {
        "source": "auto",
        "path": None,
        "until": None,
        "users": None,
        "items": None,
        "columns": {},
        "formats": dict.fromkeys(("events", "users", "items"), PLAIN),
        "event_types": None,
        "min_value": None,
        "repeats": "first",
        "max_quarantine": 1,
        "min_matched": 0,
        "require_consent": None,
        "clock_skew_seconds": 60,
        "outliers": yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["ingest"]["outliers"],
    }

    def make(**changes: object) -> params.Ingest:
        return params.Ingest.model_validate(plain | changes)

    return make


@pytest.fixture
def read_from(ingest_settings: Callable[..., params.Ingest]) -> Callable[..., Source]:
    """Read a path with the given settings of `ingest`."""
    simulate = params.load(ROOT / "params.yaml").simulate

    def run(path: Path, context: tuple[str, ...] = (), **changes: object) -> Source:
        return read_source(ingest_settings(path=str(path), **changes), simulate, 0, context)

    return run


@pytest.fixture
def params_file(tmp_path: Path) -> Callable[..., Path]:
    """A params.yaml whose section `ingest` reads a foreign source; keywords change that section."""

    def make(split: dict | None = None, **ingest: object) -> Path:
        settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        settings["ingest"] |= {"source": "auto", "event_types": None} | ingest
        settings["split"] |= split or {}
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    return make
