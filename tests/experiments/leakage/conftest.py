"""The made platform for every test of a check."""

from __future__ import annotations

import pandas as pd
import pytest
from made_cut import made_events


@pytest.fixture
def events() -> pd.DataFrame:
    """A copy to plant a leak in."""
    return made_events()
