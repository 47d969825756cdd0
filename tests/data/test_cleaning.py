"""Clean events: every row is kept or accounted for, and the order of the source's rows never matters."""

from __future__ import annotations

import json
from hashlib import blake2b

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import cleaning, consent
from data.cleaning import Ingested, clean
from data.columns import event_id
from data.files import DataError
from data.ingest import main
from data.readers.sources import Source
from data.readers.table import broken_lines
from data.tables import content_hash

DAY_1 = 1_704_067_200  # 2024-01-01 UTC


def source(rows: list[dict], users: list[dict] | None = None, items: list[dict] | None = None) -> Source:
    """A source of rows typed into a test; rows are numbered from 1."""
    events = pd.DataFrame(rows)
    return Source(
        name="table",
        events=events.set_axis(range(1, len(events) + 1)),
        users=None if users is None else pd.DataFrame(users),
        items=None if items is None else pd.DataFrame(items),
        files=(),
        broken=broken_lines().assign(table=[]),
    )


def event(user="u", item="i", time=DAY_1, **more) -> dict:
    return {"user_id": user, "item_id": item, "event_time": time, **more}


@pytest.fixture
def run(ingest_settings):
    def run(rows, users=None, items=None, context=(), **changes) -> Ingested:
        return clean(source(rows, users, items), ingest_settings(**changes), context)

    return run


def accounted(counts: dict) -> int:
    left_out = "quarantined without_consent other_event_types below_min_value duplicates repeats_dropped"
    return counts["events"] + sum(counts[name] for name in left_out.split())


# Rows that cannot be used


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (event(user=None), "user_id is blank"),
        (event(user="  "), "user_id is blank"),
        (event(item=None), "item_id is blank"),
        (event(time=None), "event_time is blank"),
        (event(time="yesterday"), "event_time is not a time"),
        (event(time=DAY_1 - 54 * 365 * 86_400), "event_time is out of range (1971 to 2100)"),
        (event(time=4_102_444_800), "event_time is out of range (1971 to 2100)"),
        (event(value="five"), "value is not a number"),
        (event(value="inf"), "value is not finite"),
        (event(known_time="soon"), "known_time is not a time"),
        (event(known_time=DAY_1 - 61), "known_time is before event_time"),
    ],
)
def test_a_bad_row_goes_to_quarantine_with_its_reason(run, bad, reason):
    good = event(item="other", value="1", known_time=DAY_1)

    result = run([good, bad])

    assert result.events["item_id"].tolist() == ["other"]
    quarantined = result.quarantine.iloc[0]
    assert quarantined["reason"] == reason
    assert quarantined["source_row"] == 2
    assert json.loads(quarantined["raw"])["event_time"] == bad["event_time"]
    assert result.counts["quarantined_by_reason"] == {f"events: {reason}": 1}


def test_an_id_of_two_different_events_is_an_error_not_a_duplicate(run):
    rows = [event(item="a", event_id="1"), event(item="b", event_id="1"), event(item="a", event_id="1")]

    result = run(rows)

    assert result.events["item_id"].tolist() == ["a"]
    assert result.counts["duplicates"] == 1
    assert result.quarantine["reason"].tolist() == ["event_id is taken by another event"]


def test_unusable_user_ids_are_not_quoted(run):
    with pytest.raises(DataError, match=r"user_id is longer than 256 characters$"):
        run([event(user="alice" * 100)])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [event(time="yesterday")] * 100,
            "ingest: none of 100 rows could be used, 100 because event_time is not a time; first: 'yesterday'",
        ),
        (
            [event(user=None), event(user=None), event(time="x")],
            "ingest: none of 3 rows could be used, 2 because user_id is blank",
        ),
    ],
)
def test_if_no_row_is_usable_the_error_names_the_most_frequent_reason(run, rows, message):
    with pytest.raises(DataError) as error:
        run(rows)
    assert str(error.value) == message


def test_clocks_that_differ_a_little_lose_nothing(run):
    rows = [event(item=name, known_time=DAY_1 - early) for name, early in (("a", 0), ("b", 60), ("c", -5))]

    result = run(rows)

    known = dict(zip(result.events["item_id"], result.events["known_time"], strict=True))
    assert known["a"] == known["b"] == pd.Timestamp(DAY_1, unit="s", tz="UTC")
    assert result.counts["known_time_raised"] == 1
    assert run(rows, clock_skew_seconds=0).counts["quarantined"] == 1


def test_one_event_far_from_all_others_does_not_move_the_beginning(run):
    rows = [event(item=str(n), time=DAY_1 + n) for n in range(120)]

    result = run([*rows, event(time=DAY_1 - 10**8)])

    assert result.events["event_time"].min() == pd.Timestamp(DAY_1, unit="s", tz="UTC")
    assert result.quarantine["reason"].tolist() == [
        "event_time lies apart from all others, before 2024-01-01T00:00:00Z (ingest.outliers)"
    ]


def test_the_format_and_zone_of_times_can_be_set(run, ingest_settings):
    formats = ingest_settings().model_dump()["formats"]
    formats["events"] |= {"time_format": "%d.%m.%Y %H:%M", "timezone": "Europe/Berlin"}

    result = run([event(time="01.02.2024 00:30")], formats=formats)

    assert result.events["event_time"][0] == pd.Timestamp("2024-01-31T23:30Z")
    assert result.time_formats == {"event_time": "%d.%m.%Y %H:%M"}


# Which events count


def test_event_types_and_values_filter_and_are_counted(run):
    rows = [
        event(item="a", event_type="buy", value=5),
        event(item="b", event_type="view", value=5),
        event(item="c", event_type="buy", value=2),
        event(item="d", event_type="buy", value=None),
    ]

    result = run(rows, event_types=["buy"], min_value=3)

    assert result.events["item_id"].tolist() == ["a"]
    assert result.counts["other_event_types"] == 1
    assert result.counts["below_min_value"] == 2


def test_a_filter_that_leaves_nothing_lists_what_exists(run):
    with pytest.raises(DataError, match=r"event_types is \['play'\]; .* the source holds: interaction \(1\)"):
        run([event()], event_types=["play"])
    with pytest.raises(DataError, match=r"min_value is 9\.0; none of 1 events reaches it; .* is 5\.0"):
        run([event(value=5)], min_value=9)


def test_only_a_yes_is_consent(run):
    users = [
        {"user_id": "yes", "consent_training": "True", "plan": "free"},
        {"user_id": "no", "consent_training": "false", "plan": "paid"},
        {"user_id": "silent", "consent_training": None, "plan": "paid"},
    ]
    rows = [event(user=name) for name in ("yes", "no", "no", "silent", "stranger")]
    rows[2]["item_id"] = "j"

    result = run(rows, users=users)

    assert result.users.to_dict("records") == [{"user_id": "yes", "plan": "free"}]
    assert result.events["user_id"].tolist() == ["yes"]
    assert result.counts["without_consent"] == 4
    assert result.counts["users_without_consent"] == 3


def test_consent_to_training_is_decided_by_the_one_rule(run, monkeypatch):
    asked = []

    def rule(record, purpose, now_us):
        asked.append((record.answers[purpose].granted, purpose))
        return consent.Decision.GRANTED

    monkeypatch.setattr(cleaning, "decide", rule)
    users = [{"user_id": "yes", "consent_training": "yes"}, {"user_id": "no", "consent_training": "no"}]

    assert run([event(user="yes"), event(user="no")], users=users).counts["without_consent"] == 0
    assert asked == [(True, "model_training"), (False, "model_training")]


def test_an_unclear_consent_is_refused(run):
    with pytest.raises(DataError, match=r"consent_training is 'maybe' in source_row 0; expected true or false"):
        run([event()], users=[{"user_id": "u", "consent_training": "maybe"}])


# Order, ids, duplicates, repeats


def test_a_missing_id_is_blake2b_of_the_content(run):
    row = run([event(user="ann", item="0114508")]).events.iloc[0]

    text = f"3:ann7:0114508{DAY_1 * 10**6}:interaction"
    assert row["event_id"] == blake2b(text.encode(), digest_size=16).hexdigest()
    assert row["known_time"] == row["event_time"]


def test_ids_of_different_events_differ_where_their_texts_join_alike():
    assert event_id("a1", "b", 5, "x") != event_id("a", "1b", 5, "x")


def test_events_lie_in_the_order_of_time_and_id(run):
    rows = [
        event(item="c", time=DAY_1 + 1, event_id="0"),
        event(item="b", event_id="2"),
        event(item="a", event_id="10"),
    ]

    assert run(rows).events["event_id"].tolist() == ["10", "2", "0"]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("first", ["e1", "x"]), ("last", ["x", "e4"]), ("all", ["e1", "e2", "x", "e3", "e4"])],
)
def test_repeats_keep_the_first_the_last_or_all(run, rule, kept):
    rows = [
        event(event_id="e2"),
        event(event_id="e1"),  # the same time: the smaller id is first
        event(item="other", time=DAY_1 + 1, event_id="x"),
        event(time=DAY_1 + 2, event_id="e4"),
        event(time=DAY_1 + 2, event_id="e3"),
    ]

    result = run(rows, repeats=rule)

    assert result.events["event_id"].tolist() == kept
    assert result.counts["repeats_dropped"] == 5 - len(kept)
    assert accounted(result.counts) == 5


def test_a_delivery_that_came_twice_counts_once_and_was_known_from_the_first(run):
    rows = [event(event_id="m", known_time=DAY_1 + 60), event(event_id="m", known_time=DAY_1 + 5)]

    result = run(rows, repeats="all")

    assert result.counts["duplicates"] == 1
    assert result.events["known_time"].tolist() == [pd.Timestamp(DAY_1 + 5, unit="s", tz="UTC")]


# Users and items


def test_items_of_events_and_catalog_and_users_of_events_have_a_row(run):
    result = run(
        [event(user="b", item="z"), event(user="a", item="y")],
        users=[{"user_id": "a", "age": 30.0}, {"user_id": "ghost", "age": 99.0}],
        items=[{"item_id": "y", "title": "Why"}, {"item_id": "x", "title": "Unseen"}],
    )

    assert result.users["user_id"].tolist() == ["a", "b"]
    assert result.items[["item_id", "title"]].astype(object).to_numpy().tolist()[:2] == [
        ["x", "Unseen"],
        ["y", "Why"],
    ]
    assert result.items["item_id"].tolist() == ["x", "y", "z"]
    assert result.items["title"].isna().tolist() == [False, False, True]
    assert "genres" in result.items.columns


def test_side_rows_with_a_missing_or_repeated_id_are_quarantined(run):
    items = [{"item_id": "i", "title": "B"}, {"item_id": "i", "title": "A"}, {"item_id": None, "title": "C"}]

    result = run([event()], items=items)

    assert result.items["title"].tolist() == ["A"]
    assert result.counts["quarantined_by_reason"] == {
        "items: item_id is blank": 1,
        "items: item_id occurs twice": 1,
    }
    assert result.counts["quarantined"] == 0


def test_context_columns_travel_with_their_events(run):
    events = run([event(device="tv"), event(item="j", device=None)], context=("device", "absent")).events

    assert dict(zip(events["item_id"], events["device"], strict=True)) == {"i": "tv", "j": None}
    assert "absent" not in events.columns


# The order of the source's rows must not matter

rows_of_events = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["a", "b", "c", None]),
            "item_id": st.sampled_from(["x", "y", "007", " "]),
            "event_time": st.sampled_from([DAY_1, DAY_1 + 1, DAY_1 + 2, "never", 5]),
            "event_id": st.sampled_from([None, "1", "2"]),
            "event_type": st.sampled_from(["buy", "view", None]),
            "value": st.sampled_from([None, 1, 2, "bad"]),
            "device": st.sampled_from(["tv", "phone", None]),
        }
    ),
    min_size=1,
    max_size=12,
)
rows_of_items = st.lists(
    st.fixed_dictionaries(
        {"item_id": st.sampled_from(["x", "y", "z", None]), "title": st.sampled_from(["T", "S", None])}
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(rows=rows_of_events, items=rows_of_items, rule=st.sampled_from(["first", "last", "all"]), data=st.data())
def test_shuffling_the_source_changes_nothing(ingest_settings, rows, items, rule, data):
    config = ingest_settings(repeats=rule)
    rows = [event(user="sure", item="kept", event_id=None, event_type="buy", value=1, device="tv"), *rows]
    shuffled = data.draw(st.permutations(rows)), data.draw(st.permutations(items))

    one = clean(source(rows, items=items), config, ["device"])
    two = clean(source(shuffled[0], items=shuffled[1]), config, ["device"])

    for name in ("events", "users", "items"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))
    assert hash_of(one) == hash_of(two)
    assert one.counts == two.counts
    assert accounted(one.counts) == one.counts["rows_read"] == len(rows)
    assert put_aside(one) == put_aside(two)


def put_aside(result: Ingested) -> list[tuple]:
    """Quarantined rows without their place in the file."""
    rows = result.quarantine[["table", "raw", "reason"]].to_numpy().tolist()
    return sorted((table, json.dumps(json.loads(raw), sort_keys=True), reason) for table, raw, reason in rows)


def hash_of(result: Ingested) -> str:
    return content_hash({"events": result.events, "users": result.users, "items": result.items})


# The hash of a data set


def test_the_hash_sees_every_value_null_and_name_and_no_storage():
    table = pd.DataFrame({"a": ["x", None], "b": [1, 2]})
    same = pd.DataFrame({"b": [1.0, 2.0], "a": pd.Series(["x", None], dtype="string")})
    others = [
        table.assign(a=["x", ""]),
        table.assign(a=["", "x"]),
        table.assign(b=[1, 3]),
        table.rename(columns={"b": "c"}),
        table.iloc[::-1],
        table.iloc[:1],
    ]

    hashes = {content_hash({"t": other}) for other in others}

    assert content_hash({"t": same.set_axis([7, 9])}) == content_hash({"t": table})
    assert len(hashes | {content_hash({"t": table})}) == len(others) + 1


# The verb


def write_log(path, lines):
    path.write_text("user_id,item_id,event_time\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_command_writes_and_reports_its_output(tmp_path, params_file, capsys):
    log = write_log(tmp_path / "log.csv", ["a,0114508,2024-01-01", "b,x,2024-01-02", "b,y,never"])

    code = main(["--params", str(params_file(path=str(log))), "--out", str(tmp_path / "out")])

    assert code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    events = pd.read_parquet(tmp_path / "out" / "events.parquet")
    assert events["item_id"].tolist() == ["0114508", "x"]
    assert str(events["event_time"].dtype) == "datetime64[us, UTC]"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "events.parquet",
        "items.parquet",
        "manifest.json",
        "quarantine.parquet",
        "report.html",
        "report.json",
        "users.parquet",
    ]
    tables = {name: pd.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("events", "users", "items")}
    assert manifest["dataset_hash"] == content_hash(tables)
    assert manifest["counts"]["quarantined_by_reason"] == {"events: event_time is not a time": 1}
    said = capsys.readouterr().out
    assert "events: 3 rows read, 2 kept, 1 quarantined" in said
    assert said.endswith(
        f"ingested 2 events of 2 users and 2 items -> {tmp_path / 'out'}; report: {tmp_path / 'out' / 'report.html'}\n"
    )


def test_a_mistake_is_one_line_and_leaves_the_earlier_product(tmp_path, params_file, capsys):
    log = write_log(tmp_path / "log.csv", ["a,x,2024-01-01"])
    config, out = params_file(path=str(log)), tmp_path / "out"
    assert main(["--params", str(config), "--out", str(out)]) == 0
    before = (out / "manifest.json").read_text(encoding="utf-8")
    write_log(log, ["a,x,yesterday"])

    code = main(["--params", str(config), "--out", str(out)])

    assert code == 2
    assert capsys.readouterr().err == (
        "error: ingest: none of 1 rows could be used, 1 because event_time is not a time; first: 'yesterday'\n"
    )
    assert (out / "manifest.json").read_text(encoding="utf-8") == before


# Ids


def test_spellings_of_one_id_are_one_user_and_the_quarantine_keeps_the_source(run):
    rows = [event(user=" 7"), event(user="7.0", item="j"), event(user="7", item="k"), event(user="7.0", time="x")]

    result = run(rows, users=[{"user_id": "7.0", "plan": "free"}])

    assert result.events["user_id"].tolist() == ["7", "7", "7"]
    assert result.users.to_dict("records") == [{"user_id": "7", "plan": "free"}]
    assert result.numeric_ids == ["user_id"]
    assert json.loads(result.quarantine["raw"][0])["user_id"] == "7.0"


def test_an_unusable_id_goes_to_quarantine_with_its_reason(run):
    rows = [
        event(),
        event(user="x" * 10_000),
        event(item="a\x00b"),
        event(event_id="y" * 300),
        event(event_type="z" * 300),
    ]

    result = run(rows, items=[{"item_id": "\ud800", "title": "Broken"}])

    assert result.quarantine[["table", "reason"]].to_numpy().tolist() == [
        ["events", "user_id is longer than 256 characters"],
        ["events", "item_id holds a control character"],
        ["events", "event_id is longer than 256 characters"],
        ["events", "event_type is longer than 256 characters"],
        ["items", "item_id holds half of a surrogate pair"],
    ]
    assert "\\ud800" in result.quarantine["raw"].iloc[-1]


def test_of_two_spellings_in_a_side_table_one_row_stays_whatever_their_order(run):
    items = [
        {"item_id": "7", "title": "B"},
        {"item_id": "7 ", "title": "A"},
        {"item_id": "8", "title": "C"},
        {"item_id": "8", "title": "D"},
    ]

    for order in (items, items[::-1]):
        result = run([event(item="7")], items=order)

        assert result.items[["item_id", "title"]].to_numpy().tolist() == [["7", "A"], ["8", "C"]]
        assert sorted(result.quarantine["reason"]) == [
            "item_id is another spelling of an id that occurs",
            "item_id occurs twice",
        ]


def test_consent_under_other_ids_is_an_error_that_shows_both(run):
    message = (
        r"user_id differs between users and events: none of 1 ids of users, of shapes such as \['aa-9'\], is among the 1 ids "
        r"of events, of shapes such as \['9'\]"
    )
    with pytest.raises(DataError, match=message):
        run([event(user="7")], users=[{"user_id": "id-7", "consent_training": "true"}])
    with pytest.raises(DataError, match="none of 1 events is of a user whose consent_training is true"):
        run([event(user="7")], users=[{"user_id": "7", "consent_training": "no"}])
