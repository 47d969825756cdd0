"""A further source gets a copy of the project of its own, and the project stays as it was."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from collected_events import CollectedEvents, play

from config import params
from config.command import UserError
from config.paths import ROOT
from experiments.orchestration import workspace
from experiments.orchestration.workspace import make, name_of, parse_columns

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workspaces lie in a temporary folder."""
    folder = tmp_path / "workspaces"
    monkeypatch.setattr(workspace, "HOME", folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return log(tmp_path / "shop" / "clicks.csv")


def log(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("user_id,item_id,event_time\nu,i,2024-01-01\n", encoding="utf-8")
    return path


def settings_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))


def stages_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def tracked(root: Path) -> dict[str, bytes]:
    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, encoding="utf-8", check=True).stdout
    return {name: (root / name).read_bytes() for name in names.splitlines() if (root / name).exists()}


# Names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ml-100k/u.data", "ml-100k"),
        ("ml-1m-likes/likes.parquet", "ml-1m-likes"),
        ("Movie Tweetings/ratings.dat", "movie-tweetings"),
        ("shop/orders_2024.csv", "orders-2024"),
        ("shop/Events.CSV", "shop"),
        ("магазин/события.csv", "source"),
    ],
)
def test_a_file_names_its_data_set_or_leaves_it_to_its_folder(tmp_path: Path, path: str, name: str) -> None:
    assert name_of(log(tmp_path / path)) == name


def test_a_folder_names_its_data_set(tmp_path: Path) -> None:
    (tmp_path / "shop" / "ML.100k").mkdir(parents=True)

    assert name_of(tmp_path / "shop" / "ML.100k") == "ml-100k"


def test_a_name_that_no_data_set_can_have_is_refused(source: Path) -> None:
    with pytest.raises(UserError, match=r"^NAME is 'My Shop'; expected"):
        make(source, None, None, {}, "My Shop")


def test_collected_events_are_a_source_whose_partitions_the_pipeline_depends_on(tmp_path: Path) -> None:
    collected = CollectedEvents(tmp_path)
    collected.add(1, play("a"))
    collected.write(24)
    folder = make(collected.partitions, None, None, {}, None)

    assert folder.name == "events"
    assert settings_of(folder)["ingest"]["path"] == str(collected.partitions)
    assert str(collected.partitions) in stages_of(folder)["ingest"]["deps"]


# Formats and column maps


def test_the_format_and_zone_of_times_hold_for_every_table(source: Path) -> None:
    parser = argparse.ArgumentParser()
    workspace.add(parser)
    given = ["--source", str(source), "--time-format", "%d.%m.%Y", "--timezone", "Europe/Berlin"]

    folder = workspace.workspace_of(parser.parse_args(given))

    formats = settings_of(folder)["ingest"]["formats"]
    assert {(one["time_format"], one["timezone"]) for one in formats.values()} == {("%d.%m.%Y", "Europe/Berlin")}
    with pytest.raises(UserError, match=r"timezone is 'Mars'|timezone: .*expected an IANA name"):
        workspace.workspace_of(parser.parse_args(["--source", str(source), "--timezone", "Mars"]))
    with pytest.raises(UserError, match="TIMEZONE describes a SOURCE, which is missing"):
        workspace.workspace_of(parser.parse_args(["--timezone", "UTC"]))


def test_columns_become_a_map_of_our_names_to_theirs() -> None:
    assert parse_columns("") == {}
    assert parse_columns(" user_id=customer, event_time = a=b ,") == {"user_id": "customer", "event_time": "a=b"}


@pytest.mark.parametrize("part", ["user_id", "=customer", "user_id=", "user_id:customer"])
def test_a_part_that_maps_nothing_is_named(part: str) -> None:
    with pytest.raises(UserError, match=rf"^COLUMNS: '{part}' is not our_name=their_name$"):
        parse_columns(f"item_id=sku,{part}")


def test_a_column_that_is_mapped_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"^COLUMNS: user_id is both 'a' and 'b'$"):
        parse_columns("user_id=a,user_id=b")


def test_columns_of_any_name_are_mapped_by_a_json_object() -> None:
    assert parse_columns('{"item_id": "item, id", "user_id": "a=b"}') == {"item_id": "item, id", "user_id": "a=b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("{item_id", "COLUMNS is not a JSON object"), ('{"item_id": 7}', "COLUMNS: item_id is 7; expected the name")],
)
def test_a_json_object_of_columns_that_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_columns(text)


def test_the_way_files_are_written_holds_for_every_table(source: Path) -> None:
    parser = argparse.ArgumentParser()
    workspace.add(parser)
    given = ["--source", str(source), "--encoding", "cp1251", "--delimiter", "tab"]
    given += ["--quote", "none", "--na-values", "NA,-"]

    formats = settings_of(workspace.workspace_of(parser.parse_args(given)))["ingest"]["formats"]

    expected = {"encoding": "cp1251", "delimiter": "tab", "quote": None, "na_values": ["NA", "-"]}
    assert all(one.items() >= expected.items() for one in formats.values())
    with pytest.raises(UserError, match=r"formats\.events\.encoding.*expected a text encoding"):
        workspace.workspace_of(parser.parse_args(["--source", str(source), "--encoding", "xx"]))


def test_a_map_of_a_column_that_is_none_of_ours_is_refused(source: Path, home: Path) -> None:
    with pytest.raises(UserError, match=r"^COLUMNS: usr_id is none of our columns; they are event_id, user_id"):
        make(source, None, None, {"usr_id": "customer"}, None)
    assert not home.exists()


# What a workspace holds


def test_its_settings_are_the_projects_with_the_source_in_them(source: Path, tmp_path: Path, root: Path) -> None:
    users = log(tmp_path / "people.csv")

    folder = make(source, users, None, {"user_id": "customer"}, None)

    settings = settings_of(folder)
    assert settings["dataset"] == folder.name == "clicks"
    assert {key: settings["ingest"][key] for key in ("source", "path", "users", "items", "columns")} == {
        "source": "auto",
        "path": str(source),
        "users": str(users),
        "items": None,
        "columns": {"user_id": "customer"},
    }
    assert settings["ingest"]["event_types"] is None, "the simulator's types are not this source's"
    same = settings_of(root)
    assert {key: settings[key] for key in same if key not in ("dataset", "ingest")} == {
        key: same[key] for key in same if key not in ("dataset", "ingest")
    }
    params.load(folder / "params.yaml")


def test_its_ingest_depends_on_the_source_and_no_other_stage_does(source: Path, tmp_path: Path, root: Path) -> None:
    items = log(tmp_path / "things.csv")

    folder = make(source, None, items, {}, None)

    theirs, ours = stages_of(root), stages_of(folder)
    assert ours["ingest"]["deps"] == [*theirs["ingest"]["deps"], str(source), str(items)]
    assert {name: stage for name, stage in ours.items() if name != "ingest"} == {
        name: stage for name, stage in theirs.items() if name != "ingest"
    } | {"evaluate": theirs["evaluate"] | {"cmd": theirs["evaluate"]["cmd"].removesuffix(" --oracle")}}


def test_its_ingest_depends_on_the_side_tables_that_lie_beside_a_movielens_file(tmp_path: Path) -> None:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    for name, line in (("u.data", "1\t2\t3\t881250949"), ("u.user", "1|24|M|writer|05201"), ("u.item", "2|Kolya")):
        (folder / name).write_text(line + "\n", encoding="utf-8")

    deps = stages_of(make(folder / "u.data", None, None, {}, None))["ingest"]["deps"]

    assert deps[-3:] == [str(folder / name) for name in ("u.data", "u.user", "u.item")]


def test_it_asks_for_no_oracle(source: Path, root: Path) -> None:
    assert "--oracle" in stages_of(root)["evaluate"]["cmd"]
    assert "--oracle" not in stages_of(make(source, None, None, {}, None))["evaluate"]["cmd"]


def test_it_holds_the_code_that_its_stages_name_and_no_product(source: Path) -> None:
    folder = make(source, None, None, {}, None)

    named = {dep for stage in stages_of(folder).values() for dep in stage.get("do", stage)["deps"]}
    assert not [dep for dep in named if isinstance(dep, str) and dep.endswith(".py") and not (folder / dep).exists()]
    assert not [
        path for path in folder.rglob("*") if {"out", "results", "__pycache__"} & set(path.relative_to(folder).parts)
    ]


def test_it_shares_the_projects_cache(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f'dir = "{root / ".dvc" / "cache"}"' in (make(source, None, None, {}, None) / ".dvc/config").read_text(
        encoding="utf-8"
    )

    monkeypatch.setenv("TIDEGATE_DVC_CACHE", "/elsewhere/a,b")
    assert 'dir = "/elsewhere/a,b"' in (make(source, None, None, {}, None) / ".dvc/config").read_text(encoding="utf-8")


def test_commands_of_a_workspace_begin_with_its_venv_too(source: Path) -> None:
    first = make(source, None, None, {}, None)

    assert make(source, None, None, {}, None) == first, "a second time the link is there"
    assert (first / ".venv").readlink() == ROOT / ".venv"
    assert {"python": "PATH=.venv/bin:$PATH python"} in yaml.safe_load((first / "dvc.yaml").read_text("utf-8"))["vars"]


# What it leaves alone


def test_two_sources_of_one_name_do_not_overwrite_each_other(source: Path, tmp_path: Path) -> None:
    other = log(tmp_path / "bank" / "clicks.csv")

    first, second = make(source, None, None, {}, None), make(other, None, None, {}, None)

    assert first != second
    assert second.name.startswith("clicks-")
    assert settings_of(first)["ingest"]["path"] == str(source)
    assert settings_of(second)["ingest"]["path"] == str(other)
    assert settings_of(second)["dataset"] == second.name
    assert make(source, None, None, {}, None) == first
    assert make(other, None, None, {}, None) == second


def test_no_source_takes_the_name_of_the_projects_own_data_set(source: Path, root: Path) -> None:
    own = settings_of(root)["dataset"]

    assert make(source, None, None, {}, own).name.startswith(f"{own}-")


def test_a_workspace_whose_name_the_project_takes_later_is_left_behind(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = small_project(tmp_path / "project", monkeypatch)
    assert make(source, None, None, {}, None).name == "clicks"

    settings = settings_of(project) | {"dataset": "clicks"}
    (project / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    assert make(source, None, None, {}, None).name.startswith("clicks-")


def test_nothing_tracked_in_the_project_changes(source: Path, root: Path) -> None:
    before = tracked(root)
    make(source, None, None, {}, None)

    assert tracked(root) == before


def small_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's settings and pipeline with two modules of code."""
    real = workspace.ROOT
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(real / name, folder / name)
    for name in workspace.FOLDERS:
        (folder / name / "inner").mkdir(parents=True)
        (folder / name / "kept.py").write_text("KEPT = 1\n", encoding="utf-8")
        (folder / name / "inner" / "gone.py").write_text("GONE = 1\n", encoding="utf-8")
    monkeypatch.setattr(workspace, "ROOT", folder)
    return folder


def test_code_that_the_project_drops_leaves_the_workspace_and_its_products_stay(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = small_project(tmp_path / "project", monkeypatch)
    folder = make(source, None, None, {}, None)
    product = folder / "out" / "worker" / "handler.py"
    product.parent.mkdir(parents=True)
    product.write_text("", encoding="utf-8")
    assert (folder / "data" / "inner" / "gone.py").exists()

    (project / "data" / "inner" / "gone.py").unlink()
    (project / "data" / "kept.py").write_text("KEPT = 2\n", encoding="utf-8")
    make(source, None, None, {}, None)

    assert not (folder / "data" / "inner" / "gone.py").exists()
    assert (folder / "data" / "kept.py").read_text(encoding="utf-8") == "KEPT = 2\n"
    assert product.exists()


# Paths that are not there


@pytest.mark.parametrize("label", ["SOURCE", "USERS", "ITEMS"])
def test_a_path_that_does_not_exist_is_named_by_its_variable(
    source: Path, tmp_path: Path, home: Path, label: str
) -> None:
    given = {"SOURCE": source, "USERS": None, "ITEMS": None} | {label: tmp_path / "gone.csv"}

    with pytest.raises(UserError) as error:
        make(*given.values(), {}, None)

    assert str(error.value) == f"{label}: {tmp_path / 'gone.csv'} does not exist"
    assert not home.exists()


def test_a_path_in_the_home_folder_is_found(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(source.parent))

    folder = make(Path("~/clicks.csv"), None, None, {}, None)

    assert settings_of(folder)["ingest"]["path"] == str(source)
