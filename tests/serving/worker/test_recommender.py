"""Responses respect filters, segments, list rules and stored histories, and have a fallback level whatever fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from made_features import checkerboard, recipe, sides, train_settings
from safetensors.torch import save_file

from config import params
from config.paths import ROOT
from data.columns import DAY, HOUR
from data.ids import TRIMMED
from data.times import to_iso
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.artifact import export_artifact
from serving.worker.recommender import Recommender, RequestError
from serving.worker.request import Request
from serving.worker.users import User
from training.fitting import fit

FEATURES = checkerboard(cut="valid")
NOW = FEATURES.cut_us + DAY
RULES = [
    {"name": "odd", "all": [{"trait": "side", "equals": "1"}]},
    {"name": "active", "all": [{"fact": "events", "at_least": 2}]},
]
Exported = Callable[..., Recommender]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """A model of the checkerboard, exported under changed settings."""

    def write(name: str = "item_knn", **serve: object) -> Recommender:
        fitted = fit(recipe(name), FEATURES, train_settings(), seed=0)
        state = {key: tensor.contiguous() for key, tensor in fitted.model.state_dict().items()}
        save_file(state, tmp_path / "weights.safetensors")
        settings = params.load(ROOT / "params.yaml").model_dump(by_alias=True, exclude_none=False)
        settings["serve"] |= serve
        settings["segments"] = {"rules": RULES}
        facts = {"hyperparameters": fitted.hyperparameters, "label": name, "run_id": "none"}
        changed = params.Params.model_validate(settings)
        export_artifact.export_artifact(
            tmp_path / "artifact", tmp_path / "weights.safetensors", facts, FEATURES, changed, sides()
        )
        return Recommender.load(tmp_path / "artifact")

    return write


def history(*numbers: int) -> list[dict]:
    return [{"item_id": f"item-{n}", "event_time": "2024-10-20T00:00:00Z"} for n in numbers]


def ask(recommender: Recommender, **body: object) -> dict:
    (answer,) = recommender.recommend([{"history": [], **body}], now_us=NOW)
    assert not isinstance(answer, RequestError), answer
    return answer


def ids(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def is_odd(item_id: str) -> bool:
    return bool(int(item_id.removeprefix("item-")) % 2)


def test_a_filter_keeps_items_with_any_of_its_values(exported: Exported) -> None:
    served = exported()

    odd = ids(ask(served, history=history(0, 2), filters={"colour": "odd"}, k=40))
    both = ids(ask(served, history=history(0, 2), filters={"colour": ["odd", "even"]}, k=40))

    assert odd
    assert all(map(is_odd, odd))
    assert len(both) == 38, "all but the history"


def test_every_filter_must_match(exported: Exported) -> None:
    found = ids(ask(exported(), filters={"colour": "odd", "size": "small"}, k=40))

    assert sorted(found) == sorted(f"item-{n}" for n in range(1, 20, 2))


def test_a_value_that_no_item_has_matches_nothing(exported: Exported) -> None:
    assert ids(ask(exported(), filters={"colour": "purple"})) == []


@pytest.mark.parametrize(
    ("filters", "error"),
    [
        ({"color": "odd"}, "filters.color: items have no such attribute; known are colour, size"),
        ({"colour": []}, "filters.colour: list should have at least 1 item after validation, not 0"),
        ({"colour": 3}, "filters.colour: expected text or a list of texts"),
        ("odd", "filters: input should be a valid dictionary"),
        ({"colour": ["x"] * 101}, "filters.colour: list should have at most 100 items after validation, not 101"),
    ],
)
def test_a_bad_filter_is_named_and_does_not_affect_other_requests(
    exported: Exported, filters: object, error: str
) -> None:
    served = exported()

    bad, good = served.recommend([{"filters": filters}, {"history": history(0)}], now_us=NOW)

    assert str(bad) == error
    assert isinstance(good, dict)
    assert good["items"]


def test_who_took_every_item_gets_an_empty_list_that_says_so(exported: Exported) -> None:
    answer = ask(exported(), history=history(*range(40)), k=5)

    assert (answer["items"], answer["source"]) == ([], "personalized")
    assert answer["reason"] == (
        "ranked from 40 known events of the history; the user took all 40 items of the catalog, so none is left"
    )


def test_a_request_that_leaves_no_item_says_which_of_its_fields_did(exported: Exported) -> None:
    answer = ask(exported(), history=history(*range(39)), exclude=["item-39"], k=5)

    assert answer["items"] == []
    assert answer["reason"].endswith("the request's exclude leave no item that the user has not taken")


def test_every_spelling_of_a_known_id_gets_the_same_answer(exported: Exported) -> None:
    served = exported()
    expected = ask(served, history=history(0, 2), exclude=["item-7"], k=40)
    events = {event["item_id"]: event for event in history(0, 2)}

    @examples(max_examples=50, deadline=None)
    @given(st.text(TRIMMED, max_size=9), st.text(TRIMMED, max_size=9), st.booleans())
    def check(before: str, after: str, is_numeric: bool) -> None:
        served.numeric_ids = ["user_id", "item_id"] if is_numeric else []
        spelled = [{**event, "item_id": before + item + after} for item, event in events.items()]

        assert ask(served, history=spelled, exclude=[f"{before}item-7{after}"], k=40) == expected

    check()


def test_a_stored_user_is_found_under_every_spelling(exported: Exported) -> None:
    served = exported()
    served.lookup, served.numeric_ids = OneUserStore("7"), ["user_id"]

    answers = served.recommend([{"user_id": one} for one in ("7", "7.0", " 7\u200b", "7e+00")], now_us=NOW)

    assert answers == [answers[0]] * 4
    assert answers[0]["source"] == "personalized"


def test_a_user_without_history_gets_the_popular_list_of_their_segment(exported: Exported) -> None:
    answer = ask(exported(), context={"side": 1}, k=10)

    assert (answer["source"], answer["segments"]) == ("segment", ["odd"])
    assert answer["reason"] == "the history is empty; popular in the segment odd"
    assert all(map(is_odd, ids(answer)))


def test_the_rest_of_the_catalog_follows_the_segment_list(exported: Exported) -> None:
    answer = ask(exported(), context={"side": 1}, k=40)

    assert len(ids(answer)) == 40
    assert [is_odd(item) for item in ids(answer)] == [True] * 20 + [False] * 20


def test_a_history_wins_over_a_segment(exported: Exported) -> None:
    answer = ask(exported(), context={"side": 1}, history=history(0, 2), k=5)

    assert answer["source"] == "personalized"
    assert answer["segments"] == ["odd", "active"]
    assert not any(map(is_odd, ids(answer)))


def test_a_history_of_unknown_items_falls_back_to_the_segment_with_a_reason(exported: Exported) -> None:
    gone = [{"item_id": f"gone-{n}", "event_time": "2024-10-20T00:00:00Z"} for n in range(2)]

    answer = ask(exported(), history=gone)

    assert answer["source"] == "segment"
    assert answer["reason"].startswith("no event of the history has a known item")


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_a_failing_model_still_gives_a_popular_list_and_the_reason(
    exported: Exported, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = exported()

    def scores(batch: object) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("broken")
        return torch.full((8, len(served.vocabulary)), float("nan"))

    monkeypatch.setattr(served.model, "scores", scores)
    answer = ask(served, history=history(0), k=5)

    assert answer["source"] == "popular"
    assert answer["reason"] == "the model failed on this batch"
    assert len(ids(answer)) == 5
    assert "item-0" not in ids(answer)
    counts = [item["score"] for item in answer["items"]]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 1


def test_limits_hold_in_every_list(exported: Exported) -> None:
    served = exported(at_most=[{"field": "colour", "value": "even", "items": 2}])

    shown = ids(ask(served, history=history(0, 2, 4), k=10))

    assert len(shown) == 10
    assert sum(not is_odd(item) for item in shown) == 2


def test_diversity_changes_the_order_but_not_the_first_item(exported: Exported) -> None:
    plain = ids(ask(exported(), history=history(0, 2, 4), k=10))
    varied = ids(ask(exported(diversity=0.7), history=history(0, 2, 4), k=10))

    assert varied[0] == plain[0]
    assert varied != plain


class OneUserStore:
    """Knows one user, and item trends of an hour ago."""

    def __init__(self, user_id: str = "known", trends_us: int = NOW - HOUR) -> None:
        self.user_id, self.trends_us, self.calls = user_id, trends_us, 0

    def find_users(self, requests: Sequence[Request], repeats: str) -> list[User]:
        self.calls += 1
        items, times = [f"item-{n}" for n in (1, 3)], [NOW - DAY + n for n in (1, 3)]
        known = User(items, times, {"side": 1}, feature_time_us=NOW - DAY)
        return [
            known if one.user_id == self.user_id else User(reason="the store does not know the user")
            for one in requests
        ]

    def find_trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        channels = FEATURES.description["channels"]
        values = np.zeros((len(vocabulary), len(channels)), dtype=np.float32)
        values[vocabulary.index("item-39")] = 1e6
        return TrendSnapshot(values, channels, self.trends_us) if newer_than_us < self.trends_us <= as_of_us else None


def test_a_stored_history_is_used_where_the_request_has_none(exported: Exported) -> None:
    served = exported()
    served.lookup = OneUserStore()
    stated = {"history": [{"item_id": f"item-{n}", "event_time": "2024-10-03T23:00:00Z"} for n in (1, 3)]}

    stored, unknown, own = served.recommend(
        [{"user_id": "known"}, {"user_id": "nobody"}, {"user_id": "known", "history": history(0)}], now_us=NOW
    )
    by_hand = ask(served, **stated)

    assert served.lookup.calls == 1, "one round trip per batch"
    assert stored["source"] == "personalized"
    assert ids(stored) == ids(by_hand)
    assert stored["segments"] == ["odd", "active"]
    assert "item-1" not in ids(stored)
    assert "item-3" not in ids(stored)
    assert (unknown["source"], unknown["reason"]) == ("popular", "the store does not know the user")
    assert not any(map(is_odd, ids(own)[:3])), "a history in the request wins over a stored one"


def test_live_trends_apply_only_to_requests_of_a_later_time(exported: Exported) -> None:
    served = exported("popularity_1d")
    before = to_iso(NOW - 2 * HOUR)
    (frozen,) = served.recommend([{"history": [], "time": before}], now_us=NOW)
    served.lookup = OneUserStore()

    now, earlier = served.recommend([{"history": []}, {"history": [], "time": before}], now_us=NOW)

    assert ids(now)[0] == "item-39"
    assert now["trends_time"] == to_iso(NOW - HOUR)
    assert earlier == frozen, "golden requests have the export's time, so live trends do not change their responses"


def test_golden_requests_are_answered_as_exported_whatever_trends_the_store_holds(exported: Exported) -> None:
    served = exported("popularity_1d")
    served.lookup = OneUserStore(trends_us=FEATURES.cut_us + 1)
    golden = served.golden_cases()

    answers = served.recommend([case["request"] for case in golden], now_us=NOW)

    assert [ids(answer) for answer in answers] == [ids(case["answer"]) for case in golden]
    assert {answer["trends_time"] for answer in answers} == {to_iso(FEATURES.cut_us)}


def test_trends_without_a_channel_that_the_model_reads_are_not_used(
    exported: Exported, caplog: pytest.LogCaptureFixture
) -> None:
    served = exported("popularity_1d")
    served.lookup = OneUserStore()
    served.lookup.find_trends = lambda vocabulary, *_: TrendSnapshot(  # type: ignore[method-assign]
        np.zeros((len(vocabulary), 1), np.float32), ["all"], NOW
    )

    (answer,) = served.recommend([{"history": []}], now_us=NOW)

    assert answer["trends_time"] == to_iso(FEATURES.cut_us)
    assert "lack window_1d" in caplog.text
