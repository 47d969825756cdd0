"""What needs no Feast: where keys lie there, what a feature server may answer, and who is refused and told why."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.feast_sdk import open_feast
from features.feast_server import ServerEngine, locate_row, select_records
from features.online.connect import StoreSettings, connect, read_settings
from features.online.errors import StoreError, StoreUnavailable
from features.online.store import ReadingState
from serving.torchserve.launch import environment

KEY = b"tidegate:d:profile:a"
KEYS = st.lists(st.sampled_from([b"a", b":", b"profile:", b"\\", b"x80", b"\x80", "ü".encode(), b""])).map(b"".join)


@given(KEYS, KEYS)
def test_two_keys_never_share_a_place(one: bytes, other: bytes) -> None:
    prefix = b"tidegate:d:"
    assert (locate_row(prefix + one) == locate_row(prefix + other)) == (one == other)


def test_a_profile_lies_under_its_users_id_and_a_policy_under_its_name() -> None:
    assert locate_row(KEY) == ("profile", "d", "a", "")
    assert locate_row(b"tidegate:d:policy") == ("shared", "d", "", "policy")
    assert locate_row(b"tidegate-consent:d:a:b") == ("consent", "d", "a:b", "")


def test_a_row_that_lost_its_record_is_corrupt_not_unknown() -> None:
    # A no that cannot be read must not pass for a user whom nobody asked.
    held = {"profile__record": [None, None, None], "profile__erased": [False, True, None]}
    assert select_records([locate_row(KEY)] * 3, held) == [b"", None, None]


def answering(content: bytes, status: int = 200) -> ServerEngine:
    engine = ServerEngine("feast+http://me:secret@127.0.0.1:1", 1)
    reply = httpx.MockTransport(lambda request: httpx.Response(status, content=content))
    engine._http = httpx.Client(base_url="http://server", transport=reply)
    return engine


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"metadata": {"feature_names": ["x"]}, "results": []}', b"\xff"]
)
def test_a_response_without_features_is_an_error_that_names_the_server(content: bytes) -> None:
    with pytest.raises(StoreUnavailable, match=r"feast\+http://127\.0\.0\.1:1") as fault:
        answering(content).get([KEY])
    assert "secret" not in str(fault.value)


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_fails_is_an_error(status: int) -> None:
    with pytest.raises(StoreUnavailable, match=str(status)):
        answering(b"", status).get([KEY])


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(StoreUnavailable, match="ConnectError"):
        ServerEngine("feast+http://127.0.0.1:1", 1).get([KEY])


def test_a_feast_url_is_refused_where_feast_cannot_load() -> None:
    found = read_settings({"TIDEGATE_STORE": "feast:///folder"})
    with pytest.raises(StoreError, match="TIDEGATE_STORE is a Feast URL, which this process cannot open"):
        connect("d", found)
    with pytest.raises(StoreError, match=r"read through `feast serve`: feast\+http://host:port"):
        connect("d", found, open_feast=ServerEngine)


def test_workers_use_the_embedded_store_instead_of_feast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEGATE_STORE", "feast+http://127.0.0.1:6566")
    assert environment(tmp_path, tmp_path)["TIDEGATE_STORE"].startswith("sqlite:///")
    monkeypatch.setenv("TIDEGATE_STORE", "redis://h:1/0")
    assert environment(tmp_path, tmp_path)["TIDEGATE_STORE"] == "redis://h:1/0"


def test_a_folder_without_feature_store_yaml_is_named(tmp_path: Path) -> None:
    # Without Feast the error says how to install it.
    with pytest.raises(StoreError, match=r"holds no feature_store\.yaml|install Feast: pip install"):
        open_feast(f"feast://{tmp_path}", 1)


def test_a_store_reads_through_the_server_engine_as_through_any() -> None:
    engine = answering(b"")
    engine._http = httpx.Client(base_url="http://server", transport=httpx.MockTransport(_one_policy))
    (reading,) = connect("d", StoreSettings("feast+http://h"), open_feast=lambda url, seconds: engine).read(["a"], [0])
    assert reading.state == ReadingState.CORRUPT


def _one_policy(request: httpx.Request) -> httpx.Response:
    """The policy in base64, and a record that is none."""
    names = [f"{view}__{name}" for view in ("profile", "consent", "shared") for name in ("record", "erased")]
    policy = "eyJtYXhfZXZlbnRzIjogNSwgInR0bF91cyI6IG51bGx9"  # {"max_events": 5, "ttl_us": null}
    nothing = [None, None, None]
    values = [[None, "cnViYmlzaA==", None], [None, False, None], nothing, nothing, [policy, None, None], nothing]
    return httpx.Response(
        200, json={"metadata": {"feature_names": names}, "results": [{"values": each} for each in values]}
    )
