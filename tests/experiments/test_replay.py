"""Replay gives a served answer again, byte for byte, from the registered artifact, or names what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from served_platform import edge, log, platform, rewrite

from experiments import replay
from serving.deployment import registry
from serving.worker import response

pytestmark = pytest.mark.slow

HISTORY = [
    {"item_id": "m00003", "event_time": "2026-01-05T10:00:00Z"},
    {"item_id": "m00007", "event_time": "2026-01-06"},
]
REQUESTS = {
    "stored": {"user_id": "u000001", "k": 5},
    "long": {"user_id": "u000001", "k": 40},
    "then": {"user_id": "u000001", "k": 5, "time": "2026-02-20T08:09:10.123456Z"},
    "unknown": {"user_id": "nobody-we-know", "k": 5},
    "own_history": {"user_id": "u000001", "history": HISTORY, "context": {"device": "tv"}, "k": 7},
    "empty": {"history": [], "k": 3},
    "nobody": {"k": 4},
    "denied": {"user_id": "u000002", "k": 6},
    "barred": {"user_id": "u000003", "exclude": ["m00001", "m00002"], "k": 5},
}


@pytest.fixture(scope="module")
def answered(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """The platform, and the body of each answer by its request id."""
    with platform(pipeline, tmp_path_factory.mktemp("answered")) as folder:
        with edge(folder) as (running, worker):
            bodies = {name: running.ask(body | {"request_id": name}).content for name, body in REQUESTS.items()}
            bodies["again"] = running.ask(REQUESTS["stored"] | {"request_id": "again"}).content
            worker.stop()
            for name, body in {"cached": REQUESTS["stored"] | {"k": 2}, "popular": {"k": 9}}.items():
                bodies[name] = running.ask(body | {"request_id": name}).content
            running.service.pipeline.fallback.popular = None
            bodies["static"] = running.ask({"k": 8, "request_id": "static"}).content
        yield folder, bodies


@pytest.fixture
def here(answered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another clone: products as DVC brings them, the served log and its secret; no store, nothing else."""
    folder, _ = answered
    for name in ("out/data", "out/features/test", "edge", "edge-keys", "params.yaml"):
        source = folder / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path}/state/online.db")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = replay.main([*arguments, "--served", "edge/served"])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize("name", [*REQUESTS, "again", "popular", "static"])
def test_a_recorded_answer_comes_back_byte_for_byte_on_another_clone(here: Path, answered, name: str, capsys) -> None:
    code, printed = run(capsys, name, "--body", "body.json")

    assert (code, printed.splitlines()[0]) == (0, f"replay of {name}: identical bytes"), printed
    assert Path("body.json").read_bytes() == answered[1][name]
    assert "identical" in printed.partition("INPUTS")[2] or name in ("popular", "static")


def test_the_replayed_answers_come_from_several_sources(answered) -> None:
    sources = {name: body.decode().partition('"source":"')[2].partition('"')[0] for name, body in answered[1].items()}

    assert (
        sources["stored"]
        == sources["then"]
        == sources["own_history"]
        == sources["barred"]
        == sources["again"]
        == "personalized"
    )
    assert (sources["denied"], sources["popular"], sources["static"]) == ("popular", "popular", "static")


def test_a_missing_event_is_a_different_input(here: Path, capsys) -> None:
    path = here / "out/data/split/events.parquet"
    events = pd.read_parquet(path)
    gone = events[events["user_id"] == "u000001"].index[-1]
    events.drop(gone).to_parquet(path)

    code, printed = run(capsys, "stored")

    assert code == 1
    assert printed.startswith("replay of stored: different")
    assert "! history differ" in printed


def test_without_the_secret_a_named_user_is_believed_and_the_bytes_decide(here: Path, capsys) -> None:
    (here / "edge-keys/1.key").unlink()

    assert run(capsys, "stored") == (2, "error: the user is unknown: the key of the log's pseudonyms is missing "
                                     "(TIDEGATE_EDGE_USER_KEYS, or TIDEGATE_EDGE_USER_SECRET)\n")  # fmt: skip
    code, printed = run(capsys, "stored", "--user", "u000001")
    assert (code, "identical bytes" in printed, "history and traits are not compared" in printed) == (0, True, True)
    assert run(capsys, "stored", "--user", "u000003")[0] == 1


def test_a_user_with_another_pseudonym_is_refused(here: Path, capsys) -> None:
    code, printed = run(capsys, "stored", "--user", "u000003")

    assert (code, "the pseudonym is not that of 'u000003'" in printed) == (2, True)


def elsewhere(line: dict, by: float, swapped: bool = False) -> dict:
    """The same line as another processor would have left it: its scores differ, and with them its bytes."""
    scores = [score + by for score in line["scores"]]
    items = [line["items"][1], line["items"][0], *line["items"][2:]] if swapped else line["items"]
    return line | {"scores": scores, "items": items, "digest": "of other bytes", "computed_on": "another processor"}


@pytest.mark.parametrize(
    ("by", "swapped", "result"), [(1e-6, False, "same items"), (1e-3, False, "different"), (0, True, "different")]
)
def test_on_another_processor_the_items_must_be_the_same_up_to_rounding(
    here: Path, capsys, by: float, swapped: bool, result: str
) -> None:
    rewrite(here, "stored", lambda line: elsewhere(line, by, swapped))

    code, printed = run(capsys, "stored")

    assert printed.startswith(f"replay of stored: {result}\n"), printed
    assert code == (result == "different")


def test_only_near_ties_may_change_places_on_another_processor(
    here: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tie(line: dict) -> dict:
        _, second, *rest = line["scores"]
        return line | {"scores": [second, second, *rest]}

    rewrite(here, "stored", lambda line: tie(elsewhere(line, 0)))
    assert run(capsys, "stored")[0] == 1  # the first one's score was another
    rewrite(here, "stored", lambda line: line | {"items": line["items"][::-1], "scores": [1.0] * 5})
    assert run(capsys, "stored")[0] == 1


def test_on_the_same_processor_the_bytes_must_be_the_same(here: Path, capsys) -> None:
    rewrite(here, "stored", lambda line: line | {"digest": "of other bytes"})

    code, printed = run(capsys, "stored")

    assert code == 1
    assert "! its bytes differ, on the same processor class and libraries" in printed
    assert response.describe_processor() in printed


@pytest.mark.parametrize("field", ["reason", "segments"])
def test_a_field_that_differs_is_named(here: Path, capsys, field: str) -> None:
    other = {"digest": "", "computed_on": "another", field: "2026-01-01T00:00:00Z"}
    rewrite(here, "stored", lambda line: line | other)

    code, printed = run(capsys, "stored")

    assert (code, f"! {field} is " in printed) == (1, True)


def test_a_repeated_answer_points_to_the_one_to_replay(here: Path, capsys) -> None:
    code, printed = run(capsys, "cached")

    assert code == 2
    assert printed.startswith("error: this answer repeats the user's answer of 20")
    assert printed.endswith("; replay that one\n")


def test_missing_trends_are_named(here: Path, capsys) -> None:
    shutil.rmtree(here / "out/features/test")

    code, printed = run(capsys, "stored")

    assert code == 2
    assert printed.startswith("error: the item trends of 2026-")
    assert "no longer exist" in printed


def test_a_missing_request_is_named(here: Path, capsys) -> None:
    shutil.rmtree(here / "edge/requests")

    code, printed = run(capsys, "own_history")

    assert (code, len(printed.splitlines())) == (2, 1)
    assert printed.startswith(
        "error: the request has context and history, which is kept only if TIDEGATE_EDGE_KEEP_REQUESTS is true"
    )


def test_a_changed_artifact_is_not_replayed(here: Path, capsys) -> None:
    weights = stored("weights.safetensors")
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        code, printed = run(capsys, "stored")
    finally:
        weights.write_bytes(before)

    assert code == 2
    assert "its artifact is corrupt" in printed
    assert "weights.safetensors is not the file that was exported" in printed


def stored(name: str) -> Path:
    """A file of the registered artifact, where the registry keeps it."""
    version = registry.find_version("demo", "1")
    folder = Path(registry.registry_client().get_run(version.run_id).info.artifact_uri.removeprefix("file://"))
    return folder / f"artifact-{version.artifact[:12]}" / name


def test_a_broken_line_does_not_hide_others(here: Path, capsys) -> None:
    with log(here).open("a", encoding="utf-8") as file:
        file.write('{"request_id":"stored","items":["m0')

    assert run(capsys, "stored")[0] == 0
    assert run(capsys, "never sent")[0] == 2
