"""A user's mistake at the command line ends in one line that names it and where to correct it."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
HEADER = "user_id,item_id,event_time"
ROWS = [f"u{row % 3},i{row},2024-01-{row + 1:02d}" for row in range(20)]

Refused = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the project's settings for a table log.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings["ingest"] |= {"source": "auto", "path": "log.csv", "event_types": None}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return tmp_path


@pytest.fixture
def refused(project: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that refuses its arguments; returns the one line of its stderr."""

    def run(module: str, *arguments: str) -> str:
        code = importlib.import_module(module).main(list(arguments))
        return refusal(code, capsys.readouterr().err)

    return run


def refusal(code: int, stderr: str) -> str:
    """The one line of an error message."""
    lines = stderr.splitlines()
    assert code == 2, stderr
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def change(project: Path, key: str, value: object) -> None:
    """Set `section.key` of params.yaml."""
    path = project / "params.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    *sections, name = key.split(".")
    inner = settings
    for section in sections:
        inner = inner[section]
    inner[name] = value
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# Files of events

UNUSABLE = {
    "a missing column": (
        "who,item_id,event_time\nu,i,2024-01-01\n",
        r"^log\.csv: no column user_id; it holds 'who', 'item_id', 'event_time'; say which one it is in params\.yaml",
    ),
    "text in the time column": (
        f"{HEADER}\nu,i,yesterday\nv,j,today\n",
        r"^ingest: none of 2 rows could be used, 2 because event_time is not a time; first: 'yesterday'$",
    ),
    "an empty file": ("", r"^log\.csv is empty$"),
    "blank lines": ("\n\r\n\n", r"^log\.csv holds blank lines only$"),
    "a header only": (f"{HEADER}\n", r"^log\.csv holds no rows$"),
    "a header without an end of line": (HEADER, r"^log\.csv holds no rows$"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"^log\.csv is not text; readable formats: CSV, TSV, JSON, Parquet"),
    "binary bytes without a zero": (bytes(range(1, 256)) * 9, r"^log\.csv is not text"),
    "UTF-16 without a mark": (
        f"{HEADER}\nu,i,2024-01-01\n".encode("utf-16-le"),
        r"^log\.csv is not text: .*set ingest\.formats\.events\.encoding to utf-16-le",
    ),
    "an unclosed quote": (f'"{HEADER}\nu,i,2024-01-01\n', r"^log\.csv is not a readable CSV file"),
    "one very long line": ("a" * 200_000, r"^log\.csv is not a readable CSV file: field larger than field limit"),
    "a thousand columns": (",".join(f"c{n}" for n in range(1000)) + "\n", r"'c39', 960 more; say which one"),
    "a truncated Parquet file": (b"PAR1 and then nothing", r"^log\.csv is not a readable Parquet file: "),
}


@pytest.mark.parametrize(("content", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_without_events_is_named(project: Path, refused: Refused, content: str | bytes, message: str) -> None:
    (project / "log.csv").write_bytes(content if isinstance(content, bytes) else content.encode())

    assert re.search(message, error := refused("data.ingest")), error
    assert len(error) < 1000


def test_a_file_that_is_not_parquet_is_named(project: Path, refused: Refused) -> None:
    change(project, "ingest.path", "log.parquet")
    write(project / "log.parquet", HEADER, *ROWS)

    assert refused("data.ingest") == "log.parquet is not a Parquet file: it does not begin with PAR1"


def test_a_parquet_with_a_damaged_page_is_named(project: Path, refused: Refused) -> None:
    change(project, "ingest.path", "log.parquet")
    pd.DataFrame({name: [f"{name}{row}" for row in range(999)] for name in HEADER.split(",")}).to_parquet("log.parquet")
    content = bytearray(Path("log.parquet").read_bytes())
    content[40:400] = bytes(360)
    Path("log.parquet").write_bytes(content)

    assert refused("data.ingest").startswith("log.parquet is not a readable Parquet file: ")


def test_lists_in_the_time_column_are_refused(project: Path, refused: Refused) -> None:
    change(project, "ingest.path", "log.parquet")
    pd.DataFrame({"user_id": ["u"], "item_id": ["i"], "event_time": [[1, 2]]}).to_parquet("log.parquet")

    assert (
        refused("data.ingest")
        == "ingest: none of 1 rows could be used, 1 because event_time is not a time; first: '[1, 2]'"
    )


def test_infinite_times_are_out_of_range(project: Path, refused: Refused) -> None:
    change(project, "ingest.path", "log.parquet")
    frame = pd.DataFrame({"user_id": ["u"], "item_id": ["i"], "event_time": [float("inf")]})
    frame.to_parquet("log.parquet")

    assert refused("data.ingest").endswith("1 because event_time is out of range (1971 to 2100); first: 'inf'")


def test_a_path_that_does_not_exist_is_named(project: Path, refused: Refused) -> None:
    assert refused("data.ingest") == "log.csv does not exist"

    write(project / "log.csv", HEADER, *ROWS)
    change(project, "ingest.users", "people.csv")
    assert refused("data.ingest") == "people.csv does not exist"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"usr_id": "user_id"}, "ingest.columns.usr_id is none of our columns; they are event_id, "),
        ({"user_id": "customer"}, "log.csv: ingest.columns.user_id is 'customer'; the file holds 'user_id', "),
    ],
)
def test_a_column_map_that_does_not_fit_is_named(project: Path, refused: Refused, columns: dict, message: str) -> None:
    write(project / "log.csv", HEADER, *ROWS)
    change(project, "ingest.columns", columns)

    assert refused("data.ingest").startswith(message)


def test_a_file_of_one_user_cannot_be_split(project: Path, refused: Refused) -> None:
    write(project / "log.csv", HEADER, *(row.replace(row[:2], "u7") for row in ROWS))
    assert importlib.import_module("data.ingest").main([]) == 0

    assert refused("data.split") == "split: all 20 events have one user, 'u7'; at least 2 are needed to split"


# params.yaml

WRONG_SETTINGS = [
    ("split.test_fraction", 0.1, "split.test_fraction is not a known parameter"),
    ("learning_rate", 0.1, "learning_rate is not a known parameter"),
    ("train.models.ease.l1", 1, "train.models.ease.l1 is not a known parameter"),
    ("split.test_quantile", 1.2, "split.test_quantile is 1.2; input should be less than 1"),
    ("train.models.ease.l2", [-1], "train.models.ease.l2.0 is -1; input should be greater than 0"),
    ("train.models.ease.l2", [], "train.models.ease.l2 is []; list should have at least 1 item"),
    ("simulate.users", "many", "simulate.users is 'many'; input should be a valid integer"),
    ("ingest.source", "mysql", "ingest.source is 'mysql'; input should be 'auto', 'simulator'"),
    ("split", None, "split is None; input should be a valid dictionary"),
    ("tune.objectives", ["diversity", "accuracy"], "tune: objectives are diversity, accuracy; expected accuracy first"),
    ("tune.objectives", ["accuracy", "speed"], "tune.objectives.1 is 'speed'; input should be 'accuracy', 'diversity'"),
    ("tune.spaces.gru", {}, "tune.spaces names the model gru, which train.models does not hold"),
    ("tune.spaces.two_tower.dropout.low", 0.7, "tune.spaces.two_tower.dropout: low is 0.7 and high is 0.5"),
    ("tune.spaces.two_tower.dropout.log", True, "tune.spaces.two_tower.dropout: low is 0.0; expected more than 0"),
    ("tune.spaces.two_tower.dropout.high", 1.5, "tune.spaces.two_tower.dropout: the model refuses 1.5: input should"),
    ("tune.spaces.two_tower.dropout.step", 1, "tune.spaces.two_tower.dropout.step is not a known parameter"),
    ("tune.spaces.two_tower.dropout.kind", "real", "tune.spaces.two_tower.dropout is {'kind': 'real', 'low': 0.0, "),
    ("tune.spaces.two_tower.num_layers.kind", "float", "tune.spaces.two_tower.num_layers: the model refuses 2.2"),
    (
        "tune.spaces.two_tower.num_layers.low",
        1.5,
        "tune.spaces.two_tower.num_layers.low is 1.5; input should be a valid int",
    ),
    (
        "tune.spaces.two_tower.embedding_dim.values",
        [64, 0],
        "tune.spaces.two_tower.embedding_dim: the model refuses 0: input should",
    ),
    (
        "tune.spaces.two_tower.embedding_dim.values",
        [64, 64],
        "tune.spaces.two_tower.embedding_dim: values name 64 twice",
    ),
    (
        "tune.spaces.two_tower.embedding_dim.values",
        [64],
        "tune.spaces.two_tower.embedding_dim.values is [64]; list should have at l",
    ),
    (
        "tune.spaces.two_tower.depht",
        {"kind": "int", "low": 1, "high": 2, "log": False},
        "tune.spaces.two_tower names depht, which the model does not have",
    ),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG_SETTINGS)
def test_an_invalid_setting_is_named(project: Path, refused: Refused, key: str, value: object, message: str) -> None:
    change(project, key, value)

    assert refused("training.train", "--model", "ease", "--cut", "valid").startswith(f"params.yaml: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: [1", "params.yaml is not YAML: "),
        (b"", "params.yaml: the file is None; "),
        (b"dataset: caf\xe9", "params.yaml is not text in UTF-8: "),
        (b"seed: 0\nsplit: {}\nseed: 1\n", "params.yaml is not YAML: found duplicate key 'seed'"),
    ],
)
def test_an_unreadable_settings_file_is_named(project: Path, refused: Refused, content: bytes, message: str) -> None:
    (project / "params.yaml").write_bytes(content)

    assert refused("data.ingest").startswith(message)


def test_two_errors_are_two_lines(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "seed", -1)
    change(project, "split.test_quantile", 1.2)

    assert importlib.import_module("data.ingest").main([]) == 2
    assert [line.split(" is ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "error: params.yaml: seed",
        "error: params.yaml: split.test_quantile",
    ]


def test_a_missing_settings_file_names_the_folder_to_run_in(project: Path, refused: Refused) -> None:
    (project / "params.yaml").unlink()

    assert refused("training.train", "--model", "ease", "--cut", "valid") == (
        "params.yaml does not exist; run from the project's root"
    )


# Commands in the wrong order, and unknown names

TOO_EARLY = {
    "data.split": "out/data/ingest/manifest.json does not exist; run python -m data.ingest first",
    "features.featurize --cut valid": "out/data/split/manifest.json does not exist; run python -m data.split first",
    "training.train --model ease --cut valid": "out/features/valid holds no features; run `python -m features.featur",
    "training.train --model ease --cut test": "out/training/ease/valid/fit.json is missing; run `python -m training.tr",
    "serving.export --model ease": "out/training/ease/test/fit.json does not exist; run `python -m training.train --mod",
    "experiments.evaluate --model ease": "out/features/test holds no features; run ",
    "experiments.audit": "out/data/split/events.parquet does not exist; run python -m data.split first",
    "experiments.sensitivity": "out/data/split/manifest.json does not exist; run python -m data.split first",
    "experiments.tune": "out/features/valid holds no features; run ",
    "experiments.compare --dataset nosuch --out none": "none/metrics holds no metrics of 'nosuch'; run evaluate",
}


@pytest.mark.parametrize("command", TOO_EARLY)
def test_a_command_that_runs_too_early_names_what_is_missing(refused: Refused, command: str) -> None:
    assert refused(*command.split()).startswith(TOO_EARLY[command])


def test_an_unknown_model_is_named_and_the_known_ones_listed(refused: Refused) -> None:
    assert refused("training.train", "--model", "gru4rec", "--cut", "valid").startswith(
        "--model gru4rec: params.yaml: train.models holds no such model; it holds popularity, popularity_1d, "
    )


def test_an_unreadable_artifact_is_named_with_the_command_that_creates_it(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.feature_files.load_features", lambda folder: None)
    monkeypatch.setattr("experiments.evaluate.catalog_items", lambda features: None)

    error = refused("experiments.evaluate", "--model", "ease")

    assert error.startswith("out/serving/artifacts/ease: manifest.json cannot be read: ")
    assert error.endswith("; run `python -m serving.export --model ease` first")


# Arguments of the demo


@pytest.mark.parametrize("option", ["--users", "--items", "--columns", "--name"])
def test_options_of_a_source_need_a_source(refused: Refused, option: str) -> None:
    assert (
        refused("experiments.demo", option, "x")
        == "USERS, ITEMS, COLUMNS, NAME and NO_CONSENT describe a SOURCE, which is missing"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "gone.csv"], "SOURCE: gone.csv does not exist"),
        (["--source", "log.csv", "--users", "gone.csv"], "USERS: gone.csv does not exist"),
        (["--source", "log.csv", "--columns", "user_id"], "COLUMNS: 'user_id' is not our_name=their_name"),
        (["--source", "log.csv", "--columns", "who=user_id"], "COLUMNS: who is none of our columns; they are event"),
        (["--source", "params.yaml"], "{here}/params.yaml: unknown format; expected u.data, ratings.dat, or a file "),
        (["--source", "."], "{here} holds several tables (log.csv, other.csv); name the one with the events"),
    ],
)
def test_a_demo_with_an_unusable_source_ends_at_once(
    project: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("experiments.orchestration.workspace.HOME", project / "workspaces")
    write(project / "log.csv", HEADER, *ROWS)
    write(project / "other.csv", HEADER, *ROWS)

    assert refused("experiments.demo", *arguments).startswith(message.format(here=project.resolve()))
    assert not (project / "workspaces").exists()


# As processes


@pytest.fixture
def copy(project: Path) -> Path:
    """A copy of the project's code in the folder of its settings."""
    for name in ("config", "web", "data", "features", "training", "serving", "experiments"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("results", "__pycache__"))
    return project


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data.ingest", "log.csv does not exist"),
        ("training.train --model gru4rec --cut valid", "--model gru4rec: params.yaml: train.models holds no such mod"),
        ("experiments.demo --source gone.csv", "SOURCE: gone.csv does not exist"),
        ("serving.ask --k 0", "TorchServe is not running for this project ("),
    ],
)
def test_a_process_ends_with_one_line_and_no_traceback(copy: Path, run_command, command: str, message: str) -> None:
    done = run_command(*command.split(), cwd=copy, env={"PYTHONPATH": str(copy)})

    assert refusal(done.returncode, done.stderr).startswith(message)
    assert done.stdout == ""
