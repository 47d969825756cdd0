"""A copy of the project for one more source, so that two sources never touch each other's products.

As `dvc exp run --temp` does: code and settings are copied, the cache is shared, tracked files stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from config.command import UserError
from config.paths import PROJECT, ROOT, WORKSPACES
from data.files import DataError
from data.readers.sources import detect_format, locate_files
from data.readers.table import check_mapping

HOME = PROJECT / WORKSPACES
SIMULATED = "simulated"  # the data set of the simulator, where it is not the project's own
FOLDERS = ("config", "data", "features", "training", "serving", "experiments")
FILES = (
    "params.yaml",
    "dvc.yaml",
    "requirements.lock",
    ".dvcignore",
)
GENERIC = ("ratings", "events", "interactions", "u", "data")  # file names that say nothing of their data


def name_of(source: Path) -> str:
    """A data set's name, from where it lies: `likes.parquet` in `ml-1m-likes` is `ml-1m-likes`."""
    stem, parent = _slug(source.stem if source.is_file() else source.name), _slug(source.parent.name)
    if source.is_file() and parent and (stem in GENERIC or stem in parent):
        return parent
    return stem or "source"


def checked(dataset: str) -> str:
    """A name that a data set can have.

    Raises:
        UserError: it is none.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", dataset):
        raise UserError(f"NAME: {dataset!r} is no name for a data set; expected lower-case letters, digits and hyphens")
    return dataset


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def parse_columns(text: str) -> dict[str, str]:
    """`user_id=customer,event_time=ts` as a map.

    Raises:
        UserError: a part is not `name=column`, or a name is there twice.
    """
    columns: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        ours, equals, theirs = part.partition("=")
        if not equals or not ours.strip() or not theirs.strip():
            raise UserError(f"COLUMNS: {part!r} is not our_name=their_name")
        ours, theirs = ours.strip(), theirs.strip()
        if columns.setdefault(ours, theirs) != theirs:
            raise UserError(f"COLUMNS: {ours} is both {columns[ours]!r} and {theirs!r}")
    return columns


def make(
    source: Path,
    users: Path | None,
    items: Path | None,
    columns: dict[str, str],
    name: str | None,
    renewed: bool = False,
) -> Path:
    """The workspace of a source, made or brought up to date; its folder's name is the data set's.

    Args:
        renewed: it is a newer version of the data set of that name, wherever the one before lay.

    Raises:
        UserError: a path does not exist or holds nothing known, a column is none of ours, or the name cannot
            be one.
    """
    source = _found(source, "SOURCE")
    users, items = users and _found(users, "USERS"), items and _found(items, "ITEMS")
    _check_columns(columns)
    read = [*_read_from(source), *filter(None, (users, items))]
    dataset = checked(name or name_of(source))
    dataset = dataset if renewed else _free(dataset, str(source))
    stated = {key: path and str(path) for key, path in (("path", source), ("users", users), ("items", items))}
    with _copied(dataset) as (settings, pipeline):
        settings["ingest"] |= {"source": "auto", "event_types": None, **stated, "columns": columns}
        pipeline["stages"]["ingest"]["deps"] += list(dict.fromkeys(map(str, read)))
        evaluate = pipeline["stages"]["evaluate"]
        evaluate["cmd"] = evaluate["cmd"].removesuffix(" --oracle")  # only the simulator has one
    return HOME / dataset


def make_demo() -> Path:
    """The workspace of the project's own dataset, with its settings as they are."""
    dataset = yaml.safe_load((ROOT / "params.yaml").read_text())["dataset"]
    with _copied(dataset):
        return HOME / dataset


def make_simulated() -> Path:
    """The workspace of the simulator: its settings may change where the project's, which are tracked, may not."""
    dataset = _free(SIMULATED, None)
    with _copied(dataset):
        return HOME / dataset


def _found(path: Path, variable: str) -> Path:
    absolute = path.expanduser().resolve()
    if not absolute.exists():
        raise UserError(f"{variable}: {path} does not exist")
    return absolute


def _check_columns(columns: dict[str, str]) -> None:
    context = yaml.safe_load((ROOT / "params.yaml").read_text())["featurize"]["context"]
    try:
        check_mapping(columns, context)
    except DataError as error:
        raise UserError(f"COLUMNS: {str(error).removeprefix('ingest.columns.')}") from None


def _read_from(source: Path) -> list[Path]:
    """The source, and beside a MovieLens file the side tables that ingest finds there by itself."""
    file, beside = locate_files(source, detect_format(source))
    return [source] if source.is_dir() else [file, *beside.values()]


def _free(dataset: str, path: str | None) -> str:
    """The name, or the name with a hash where another source (or the default data set) has it."""
    settings = HOME / dataset / "params.yaml"
    taken = dataset == yaml.safe_load((ROOT / "params.yaml").read_text())["dataset"]
    if settings.exists():
        taken |= yaml.safe_load(settings.read_text())["ingest"]["path"] != path
    return f"{dataset}-{hashlib.blake2b(str(path).encode(), digest_size=3).hexdigest()}" if taken else dataset


@contextmanager
def _copied(dataset: str) -> Iterator[tuple[dict, dict]]:
    """Copy the project into the workspace of a data set; its settings and its pipeline, written after the block."""
    folder = HOME / dataset
    _copy(folder)
    with edited(folder / "params.yaml") as settings, edited(folder / "dvc.yaml") as pipeline:
        settings["dataset"] = dataset
        yield settings, pipeline


@contextmanager
def edited(path: Path) -> Iterator[dict]:
    """The content of a YAML file of a workspace, to be changed in the block; written anew after it."""
    content = yaml.safe_load(path.read_text())
    yield content
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _copy(folder: Path) -> None:
    for name in FOLDERS:
        wanted = set()
        for path in (ROOT / name).rglob("*"):
            inner = path.relative_to(ROOT)
            if path.is_file() and not {"__pycache__", "results"} & set(inner.parts):
                wanted.add(inner)
                _copy_file(path, folder / inner)
        for path in (folder / name).rglob("*.py"):
            inner = path.relative_to(folder)
            if inner not in wanted:
                path.unlink()  # deleted in the project since
    for name in FILES:
        if (ROOT / name).exists():
            _copy_file(ROOT / name, folder / name)
    (folder / ".dvc").mkdir(exist_ok=True)
    cache = os.environ.get("TIDEGATE_DVC_CACHE", str(ROOT / ".dvc" / "cache"))
    (folder / ".dvc" / "config").write_text(
        f"[core]\n    analytics = false\n    no_scm = true\n    check_update = false\n"
        f"[cache]\n    dir = \"{cache}\"\n    type = \"reflink,hardlink,copy\"\n"
    )  # fmt: skip


def _copy_file(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def add(parser: argparse.ArgumentParser) -> None:
    """Let a command line name its data."""
    parser.add_argument("--source", type=Path, help="file or folder of events (default: the simulator)")
    parser.add_argument("--users", type=Path, help="side table of users")
    parser.add_argument("--items", type=Path, help="side table of items")
    parser.add_argument("--columns", default="", help="our_name=their_name,... for CSV and Parquet")
    parser.add_argument("--name", help="name of the data set (default: from the source)")


def workspace_of(given: argparse.Namespace) -> Path | None:
    """The workspace of the source that was named, made or brought up to date; None where none was.

    Raises:
        UserError: what describes a source stands alone, or the source cannot be used.
    """
    if given.source:
        columns = parse_columns(given.columns)
        return make(given.source, given.users, given.items, columns, given.name)
    if given.users or given.items or given.columns or given.name:
        raise UserError("USERS, ITEMS, COLUMNS and NAME describe a SOURCE; none was given")
    return None
