"""Who refused training stays out when a newer version of a dataset no longer says so."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from config import params
from config.paths import ROOT
from data.files import DataError
from data.ingest import require_consent
from data.readers.sources import Source


@pytest.mark.parametrize("table", ["events", "users"])
def test_a_source_without_the_column_of_consent_is_refused_once_a_version_had_it(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, plain = params.load(ROOT / "params.yaml"), pd.DataFrame({"user_id": ["u"]})
    without = Source("table", plain, plain, None, (), pd.DataFrame())
    asked = {"events": plain, "users": None} | {table: plain.assign(consent_training=[True])}
    require_consent(without, settings)
    require_consent(Source("table", **asked, items=None, files=(), broken=pd.DataFrame()), settings)

    with pytest.raises(DataError, match=r"users have no column consent_training.*add NO_CONSENT=1"):
        require_consent(without, settings)
