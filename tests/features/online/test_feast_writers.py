"""What Feast's stores would do to a careless writer. Runs where Feast is installed; see `tests/features/feast`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from features.online.errors import StoreConflict, StoreError, StoreUnavailable
from features.online.profile import Event, make_profile
from features.online.store import Policy, ProfileStore, ReadingState

pytest.importorskip("feast", reason="Feast is an extra")

from features import feast_sdk

pytestmark = pytest.mark.slow
T = 1_700_000_000_000_000


@pytest.fixture(params=["feast-sqlite", "feast-redis"])
def repository(request: pytest.FixtureRequest, feast_repositories: dict[str, Path]) -> Path:
    return feast_repositories[request.param]


@pytest.fixture
def url(repository: Path) -> str:
    return f"feast://{repository}"


def test_a_write_that_the_store_drops_is_a_failed_swap(store: ProfileStore, url: str, monkeypatch) -> None:
    class SetBack(datetime):
        @classmethod
        def now(cls, zone=None) -> datetime:
            return datetime.now(zone) - timedelta(hours=1)

    before = make_profile("a", [Event(T, "d", T, "i", "play")])
    store.upsert([before])
    monkeypatch.setattr(feast_sdk, "datetime", SetBack)
    change = make_profile("a", [Event(T, "e", T, "i", "play")])
    try:
        store.upsert([change])
    except StoreConflict:
        assert store.read(["a"], [T])[0].profile == before  # as Feast's Redis does: it keeps the later write
    else:
        assert store.read(["a"], [T])[0].profile.events == before.events + change.events


def test_a_writer_waits_for_another_no_longer_than_its_timeout(repository: Path, url: str) -> None:
    engine = feast_sdk.SdkEngine(repository, 0.2)
    store = ProfileStore(engine, "held")
    with FileLock(repository / ".write.lock", thread_local=False):
        begun = time.perf_counter()
        with pytest.raises(StoreUnavailable, match=f"{url}.*another writer"):
            store.configure(Policy(5, None))
        assert time.perf_counter() - begun < 20  # it would wait for ever
    store.configure(Policy(5, None))


def test_a_row_written_without_a_record_is_corrupt_not_unknown(store: ProfileStore, namespace: str) -> None:
    row = {
        "record": None,
        "dataset": namespace,
        "user_id": "a",
        "erased": False,
        "event_timestamp": datetime.now(UTC),
    }
    store.engine._feast.write_to_online_store("profile", pd.DataFrame([row], dtype=object))

    assert store.read(["a"], [T])[0].state == ReadingState.CORRUPT


def test_the_error_without_feast_apply_names_it(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text(
        (repository / "feature_store.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    with pytest.raises(StoreError, match="feast apply"):
        ProfileStore(feast_sdk.SdkEngine(tmp_path, 1), "d").policy()
