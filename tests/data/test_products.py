"""A stage's folder appears whole or not at all, and says what it holds."""

from __future__ import annotations

import pandas as pd
import pyarrow.parquet as pq
import pytest

from data import files


def test_a_run_that_dies_while_writing_leaves_the_earlier_product_whole(tmp_path):
    folder = tmp_path / "product"
    with files.replace_folder(folder) as partial:
        (partial / "a").write_text("old")

    def write_half_and_die():
        with files.replace_folder(folder) as partial:
            (partial / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half_and_die()
    assert [file.name for file in tmp_path.iterdir()] == ["product"]
    assert (folder / "a").read_text() == "old"


def test_a_column_of_nulls_stays_text_in_parquet(tmp_path):
    files.write_table(tmp_path / "t.parquet", pd.DataFrame({"title": [None, None]}))

    assert str(pq.read_schema(tmp_path / "t.parquet").field("title").type) == "string"
