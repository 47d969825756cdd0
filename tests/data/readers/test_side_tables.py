"""Side tables end as ids, numbers and text, whatever their format is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from table_files import write_lines

from config import params
from data.files import DataError

SIMULATE = params.load(Path(__file__).resolve().parents[3] / "params.yaml").simulate


def test_of_a_zip_code_only_the_first_digit_stays(tmp_path, read_from):
    write_lines(tmp_path / "u.data", "196\t242\t3\t881250949")
    write_lines(tmp_path / "u.user", "196|49|M|writer|05201", "7|57|F|artist|V3N4P")

    users = read_from(tmp_path).users

    assert "zip" not in users.columns
    assert users["region"].tolist() == ["0", None]


def test_users_of_movielens_1m_have_traits(tmp_path, read_from):
    write_lines(tmp_path / "ratings.dat", "1::1193::5::978300760")
    write_lines(tmp_path / "users.dat", "1::F::1::10::48067")

    users = read_from(tmp_path).users

    assert users.to_dict("records") == [{"user_id": "1", "gender": "F", "age": 1.0, "occupation": "10", "region": "4"}]


def test_side_tables_of_any_format_are_found_by_name_or_map(tmp_path, read_from):
    events = write_lines(tmp_path / "log.csv", "user_id,product,event_time", "a,01,2024-01-01")
    items = write_lines(tmp_path / "things.csv", "product,name,released,price,code", "01,Lamp,x,9.5,007")
    users = tmp_path / "people.parquet"
    pd.DataFrame({"user_id": ["a"], "plan": ["free"], "zip_code": ["94110"]}).to_parquet(users)

    source = read_from(events, items=str(items), users=str(users), columns={"item_id": "product"})

    assert source.items[["item_id", "title", "price", "code"]].iloc[0].tolist() == ["01", "Lamp", 9.5, "007"]
    assert source.users.to_dict("records") == [{"user_id": "a", "plan": "free", "region": "9"}]


def test_a_side_table_without_ids_is_refused(tmp_path, read_from):
    path = write_lines(tmp_path / "log.csv", "user_id,item_id,event_time", "a,i,2024-01-01")
    items = write_lines(tmp_path / "things.csv", "colour,size", "red,1")

    with pytest.raises(DataError, match=r"things\.csv: no column item_id; it holds 'colour', 'size'"):
        read_from(path, items=str(items))


def test_the_cells_of_items_are_read_and_their_changes_are_reported(tmp_path, read_from):
    events = tmp_path / "log.parquet"
    pd.DataFrame({"user_id": ["a"], "item_id": ["i0"], "event_time": ["2024-01-01"]}).to_parquet(events)
    items = tmp_path / "items.parquet"
    pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(20)],
            "genres": [["Drama", "Comedy"], []] * 10,
            "price": [str(n) for n in range(19)] + ["ask"],
            "vector": [[0.5, 0.25]] * 20,
            "release_time": ["2024-01-01"] * 19 + ["soon"],
        }
    ).to_parquet(items)

    source = read_from(events, items=str(items))

    assert source.items["genres"].tolist()[:2] == ["Drama|Comedy", None]
    assert source.items["price"].tolist()[:19] == list(range(19))
    assert source.items[["price", "vector", "release_time"]].iloc[-1].isna().all()
    assert source.found["items"]["cells"] == {
        "genres": "lists",
        "price": "1 without value: no number, such as 'ask'",
        "vector": "lists of fractions are not read",
        "release_time": "times: ISO 8601; 1 without value: release_time is not a time, such as 'soon'",
    }
