"""Tables keep their types in Parquet."""

from __future__ import annotations

import pandas as pd
import pyarrow.parquet as pq

from data.tables import write_table


def test_a_column_of_nulls_stays_text_in_parquet(tmp_path):
    write_table(tmp_path / "t.parquet", pd.DataFrame({"title": [None, None]}))

    assert str(pq.read_schema(tmp_path / "t.parquet").field("title").type) == "string"
