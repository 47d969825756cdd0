"""A copy of the project for one more source, and the models that run in it.

Two sources never touch each other's products. As with `dvc exp run --temp`, code and settings are copied, the cache is
shared, and tracked files stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from config import params
from config.command import UserError
from config.paths import FEATURES, FITTED, PROJECT, ROOT, WORKSPACES, training_consent
from data.files import DataError, write_text
from data.readers.sources import detect_format, locate_files
from data.readers.table import check_mapping
from training import provenance
from training.model_factory import is_learned

HOME = PROJECT / WORKSPACES
SIMULATED = "simulated"  # dataset of the simulator in a workspace
PRESETS = ROOT / "experiments" / "presets"
FOLDERS = ("config", "web", "data", "features", "training", "serving", "experiments")
FILES = ("params.yaml", "dvc.yaml", "requirements.lock", ".dvcignore")
FORMAT_OPTIONS = {  # of `ingest.formats`, for every table
    "encoding": "encoding such as cp1251 (default: UTF-8, or by the byte-order mark)",
    "delimiter": "delimiter of the fields, or tab (default: found in the header)",
    "quote": "quote of the cells, or none if quotes are letters (default: a double quote)",
    "na_values": "cells that hold no value, separated by commas",
    "time_format": "strptime format of the times, or s, ms, us, ns for epoch numbers (default: found)",
    "timezone": "IANA name of the zone of times without an offset (default: UTC)",
}
GENERIC = ("ratings", "events", "interactions", "u", "data")  # file names that do not tell datasets apart


def name_of(source: Path) -> str:
    """A dataset's name from its path: `likes.parquet` in `ml-1m-likes` is `ml-1m-likes`."""
    stem, parent = _slug(source.stem if source.is_file() else source.name), _slug(source.parent.name)
    if source.is_file() and parent and (stem in GENERIC or stem in parent):
        return parent
    return stem or "source"


def checked(dataset: str) -> str:
    """The name of a dataset. Raises UserError if it is not valid."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", dataset):
        raise UserError(f"NAME is {dataset!r}; expected lower-case letters, digits and hyphens")
    return dataset


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def parse_columns(text: str) -> dict[str, str]:
    """Parse `user_id=customer,event_time=ts`, or a JSON object for names that hold commas.

    Raises UserError if a part is wrong, or a name occurs twice.
    """
    if text.lstrip().startswith("{"):
        try:
            columns = json.loads(text)
        except ValueError as error:
            raise UserError(f"COLUMNS is not a JSON object: {error}") from None
        for ours, theirs in columns.items():
            if not isinstance(theirs, str) or not theirs:
                raise UserError(f"COLUMNS: {ours} is {theirs!r}; expected the name of a column")
        return columns
    columns = {}
    for part in filter(None, text.split(",")):
        ours, _, theirs = map(str.strip, part.partition("="))
        if not ours or not theirs:
            raise UserError(f"COLUMNS: {part!r} is not our_name=their_name")
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
    formats: Mapping[str, object] | None = None,
    no_consent: bool = False,
) -> Path:
    """Make or update the workspace of a source; its folder has the name of the dataset.

    Args:
        renewed: this is a newer version of the dataset of that name, whatever the path of the older one. Of users, items,
            columns and formats, what is not given stays as it was.
        formats: settings of `ingest.formats`, for every table.
        no_consent: take the events of all users, though an earlier version had a column of consent to training.

    Raises:
        UserError: a path does not exist or has no known format, a column is unknown, or the name is not valid.
    """
    source, dataset = _found(source, "SOURCE"), checked(name or name_of(source))
    dataset = dataset if renewed else _free(dataset, str(source))
    before: dict = {"users": None, "items": None, "columns": {}, "formats": {}}
    if renewed and (HOME / dataset / "params.yaml").exists():
        before = _read(HOME / dataset / "params.yaml")["ingest"]
    users, items, columns = users or before["users"], items or before["items"], columns or before["columns"]
    users, items = users and _found(Path(users), "USERS"), items and _found(Path(items), "ITEMS")
    try:
        check_mapping(columns, _read(ROOT / "params.yaml")["featurize"]["context"])
    except DataError as error:
        raise UserError(f"COLUMNS: {str(error).removeprefix('ingest.columns.')}") from None
    # Ingest finds the side tables in the folder of a MovieLens file by itself.
    files, side_tables = locate_files(source, detect_format(source))
    read = [*([source] if source.is_dir() else [*files, *side_tables.values()]), *filter(None, (users, items))]
    paths = {key: path and str(path) for key, path in (("path", source), ("users", users), ("items", items))}
    with _copied(dataset) as (settings, pipeline):
        settings["ingest"] |= {"source": "auto", "event_types": None, **paths, "columns": columns}
        for key, table in settings["ingest"]["formats"].items():
            table |= {**before["formats"].get(key, {}), **(formats or {})}
        if no_consent:
            settings["ingest"]["require_consent"] = False
        elif settings["ingest"]["require_consent"] is None and training_consent(dataset).exists():
            # A setting of its own, or DVC could restore what ingest made before there was the column.
            settings["ingest"]["require_consent"] = True
        pipeline["stages"]["ingest"]["deps"] += list(dict.fromkeys(map(str, read)))
        evaluate = pipeline["stages"]["evaluate"]
        evaluate["cmd"] = evaluate["cmd"].removesuffix(" --oracle")  # only the simulator has one
    params.load(HOME / dataset / "params.yaml")  # names a format that cannot be, before any stage runs
    return HOME / dataset


def make_demo() -> Path:
    """The workspace of the project's own dataset, with its settings as they are."""
    return _make_copy(_read(ROOT / "params.yaml")["dataset"])


def make_simulated() -> Path:
    """The workspace of the simulator: its settings may change; those of the project, which are tracked, may not."""
    return _make_copy(_free(SIMULATED, None))


def _make_copy(dataset: str) -> Path:
    with _copied(dataset):
        return HOME / dataset


def _read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _found(path: Path, variable: str) -> Path:
    absolute = path.expanduser().resolve()
    if not absolute.exists():
        raise UserError(f"{variable}: {path} does not exist")
    return absolute


def _free(dataset: str, path: str | None) -> str:
    """The name, or the name with a hash if another source or the project's own dataset has it."""
    settings = HOME / dataset / "params.yaml"
    taken = dataset == _read(ROOT / "params.yaml")["dataset"]
    if settings.exists():
        taken |= _read(settings)["ingest"]["path"] != path
    return f"{dataset}-{hashlib.blake2b(str(path).encode(), digest_size=3).hexdigest()}" if taken else dataset


@contextmanager
def _copied(dataset: str) -> Iterator[tuple[dict, dict]]:
    """Copy the project into the workspace of a dataset. Its settings and pipeline are written after the block."""
    folder = HOME / dataset
    _copy(folder)
    with edited(folder / "params.yaml") as settings, edited(folder / "dvc.yaml") as pipeline:
        settings["dataset"] = dataset
        yield settings, pipeline


@contextmanager
def edited(path: Path) -> Iterator[dict]:
    """The content of a YAML file of a workspace; changes made in the block are written after it."""
    content = _read(path)
    yield content
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _copy(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written; the project runs in a folder that you may write")
    for name in FOLDERS:
        no_products = shutil.ignore_patterns("__pycache__", "node_modules", "results")
        shutil.copytree(ROOT / name, folder / name, ignore=no_products, dirs_exist_ok=True)
        for path in (folder / name).rglob("*.py"):
            if not (ROOT / path.relative_to(folder)).exists():
                path.unlink()  # deleted in the project since
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copyfile(ROOT / name, folder / name)
    provenance.write_commit(folder)
    environment = folder / ".venv"  # so that commands begin with .venv/bin here too
    if not environment.is_symlink():
        environment.symlink_to(PROJECT / ".venv")
    (folder / ".dvc").mkdir(exist_ok=True)
    cache = os.environ.get("TIDEGATE_DVC_CACHE", str(ROOT / ".dvc" / "cache"))
    (folder / ".dvc" / "config").write_text(
        f"[core]\n    analytics = false\n    no_scm = true\n    check_update = false\n"
        f"[cache]\n    dir = \"{cache}\"\n    type = \"reflink,hardlink,copy\"\n",
        encoding="utf-8",
    )  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a source."""
    parser.add_argument("--source", type=Path, help="file or folder of events (default: the simulator)")
    parser.add_argument("--users", type=Path, help="side table of users")
    parser.add_argument("--items", type=Path, help="side table of items")
    parser.add_argument("--columns", default="", help="our_name=their_name,..., or a JSON object for any names")
    for option, text in FORMAT_OPTIONS.items():
        parser.add_argument(f"--{option.replace('_', '-')}", help=text)
    parser.add_argument("--name", help="name of the dataset (default: from the source)")
    parser.add_argument(
        "--no-consent",
        action="store_true",
        help="take the events of all users, though an earlier version of the dataset said who consented to training",
    )


def workspace_of(arguments: argparse.Namespace) -> Path | None:
    """The workspace of the source in the arguments of `add`, made or updated; None without a source."""
    if arguments.source:
        columns = parse_columns(arguments.columns)
        formats = parse_formats(arguments)
        return make(
            arguments.source,
            arguments.users,
            arguments.items,
            columns,
            arguments.name,
            formats=formats,
            no_consent=arguments.no_consent,
        )
    if arguments.users or arguments.items or arguments.columns or arguments.name or arguments.no_consent:
        raise UserError("USERS, ITEMS, COLUMNS, NAME and NO_CONSENT describe a SOURCE, which is missing")
    if formats := parse_formats(arguments):
        raise UserError(f"{next(iter(formats)).upper()} describes a SOURCE, which is missing")
    return None


def parse_formats(arguments: argparse.Namespace) -> dict[str, object]:
    """The settings of `ingest.formats` among the arguments of `add`."""
    given = {option: getattr(arguments, option) for option in FORMAT_OPTIONS}
    given = {option: value for option, value in given.items() if value is not None}
    if given.get("quote") in ("", "none"):
        given["quote"] = None
    if "na_values" in given:
        given["na_values"] = [value for value in given["na_values"].split(",") if value]
    return given


# --- the models of a workspace


def select_models(folder: Path, labels: list[str]) -> None:
    """Let the pipeline of a workspace fit, measure and package these models of its params.yaml."""
    with edited(folder / "params.yaml") as settings, edited(folder / "dvc.yaml") as pipeline:
        models, stages = settings["train"]["models"], pipeline["stages"]
        hybrids = [label for label in labels if "parts" in models[label]]
        networks = [label for label in labels if label not in hybrids and is_learned(models[label]["name"])]
        baselines = [label for label in labels if label not in (*hybrids, *networks)]
        pipeline["vars"] = [
            *(entry for entry in pipeline["vars"] if "python" in entry),
            {"baselines": {"model": baselines}},
            {"networks": networks},
            {"hybrids": hybrids},
            {"ranked": {"model": [*baselines, *networks, *hybrids]}},
        ]
        if stage := stages.get("train-baselines"):
            others = [key for key in stage["params"] if not key.startswith("train.models.")]
            stage["params"] = others + [f"train.models.{label}" for label in baselines]
            stage["outs"] = [f"{FITTED}/{label}" for label in baselines]
        if stage := stages.get("train-hybrid"):  # waits for its parts, and for no other model
            others = [path for path in stage["deps"] if not path.startswith(f"{FITTED}/")]
            parts = {part for label in hybrids for part in models[label]["parts"]}
            stage["deps"] = others + [f"{FITTED}/{part}" for part in sorted(parts)]
        for name, chosen in (("baselines", baselines), ("network", networks), ("hybrid", hybrids)):
            if not chosen:
                stages.pop(f"train-{name}", None)


def prepare(folder: Path, presets: Sequence[str] = ()) -> None:
    """Let a workspace run every model of train.models and presets, networks until validation stops them.

    Presets hold limits of their own.
    """
    with edited(folder / "params.yaml") as settings:
        settings["tune"]["max_steps"] = None
        models = settings["train"]["models"]
        for model in models.values():
            for limit in ("max_steps", "max_epochs"):
                if limit in model:
                    model[limit] = max(model[limit], settings["experiment"][limit])
        for name in presets:
            models |= read_preset(name)
    select_models(folder, list(models))


def leave_out_large_models(folder: Path) -> list[str]:
    """Leave out models that cannot hold so many items (`max_items`), also as parts of hybrids; a line for each."""
    description = (folder / FEATURES / "test/description.json").read_text(encoding="utf-8")
    items = json.loads(description)["num_items"]
    with edited(folder / "params.yaml") as settings, edited(folder / "dvc.yaml") as pipeline:
        models = settings["train"]["models"]
        too_small = [label for label, model in models.items() if model.get("max_items", items) < items]
        left_out = set(too_small)
        for label, model in list(models.items()):
            if "parts" in model:
                model["parts"] = [part for part in model["parts"] if part not in too_small]
                if len(model["parts"]) < 2:
                    left_out.add(label)
                    del models[label]
        for label in left_out:
            settings["tune"]["spaces"].pop(label, None)
        selected = next(entry["ranked"]["model"] for entry in pipeline["vars"] if "ranked" in entry)
    select_models(folder, [label for label in selected if label not in left_out])
    return [
        f"{label} is left out: {items:,} items exceed its max_items = {models[label]['max_items']:,}"
        for label in selected
        if label in too_small
    ]


def read_preset(name: str) -> dict[str, dict]:
    """The hyperparameters of a preset, by label. Raises UserError if there is no such preset."""
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in known:
        raise UserError(f"PRESET is {name!r}; experiments/presets holds {', '.join(known) or 'none'}")
    return _read(PRESETS / f"{name}.yaml")["models"]


def presets_of(dataset: str) -> list[str]:
    """The presets that were found on a dataset."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml") if _read(path)["found"]["dataset"] == dataset)


def write_preset(path: Path, dataset: str, split_id: str, command: str, models: dict[str, dict]) -> None:
    """Write hyperparameters by label with their provenance."""
    found = {
        "dataset": dataset,
        "split_id": split_id,
        "command": command,
        "commit": provenance.commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump({"found": found, "models": models}, sort_keys=False))
