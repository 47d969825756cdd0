"""What lies at a path: which format, which file holds the events, which tables lie beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data.columns import ITEM, USER
from data.errors import DataError
from data.readers.delimited import SUFFIXES
from data.readers.lines import is_dat
from data.readers.movielens import is_ratings_csv
from data.readers.raw import head
from data.readers.recbole import INTERACTIONS, SIDES

_EVENT_FILES = ("events", "interactions", "ratings", "likes", "clicks", "purchases", "transactions")
_SIDE_FILES = {USER: ("u.user", "users.*"), ITEM: ("u.item", "movies.*", "items.*")}
_FILES = {"movielens-100k": "u.data", "movielens-dat": "ratings.dat", "movielens-csv": "ratings.csv"}


def detect(path: Path) -> str:
    """Which of movielens-100k, -dat and -csv, recbole and table lies at `path`, a file or a folder."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        if (path / "u.data").is_file():
            return "movielens-100k"
        if (path / "ratings.dat").is_file():
            return "movielens-dat"
        if (path / "ratings.csv").is_file() and is_ratings_csv(path / "ratings.csv"):
            return "movielens-csv"
        if _interactions(path):
            return "recbole"
        _only_table(path)
        return "table"
    if path.name == "u.data":
        return "movielens-100k"
    if path.suffix == INTERACTIONS:
        return "recbole"
    if is_dat(path):
        return "movielens-dat"
    if path.suffix == ".csv" and is_ratings_csv(path):
        return "movielens-csv"
    if head(path)[:4] == b"PAR1" or set(path.suffixes) & set(SUFFIXES):
        return "table"
    raise DataError(
        f"{path}: unknown format; expected u.data, ratings.dat, or a file {INTERACTIONS}, {', '.join(SUFFIXES)}"
    )


def locate(path: Path, name: str) -> tuple[Path, dict[str, Path]]:
    """The file of events, and the side tables that lie beside it: in a folder, of MovieLens, of RecBole."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    file = path
    if path.is_dir():
        file = _FINDS[name](path) if name in _FINDS else path / _FILES[name]
        if not file.is_file():
            raise DataError(f"{path} holds no {file.name}, which source {name} reads")
    elif name == "table":
        return file, {}
    if name == "recbole":
        beside = {key: file.with_suffix(suffix) for key, suffix in SIDES.items()}
        return file, {key: side for key, side in beside.items() if side.is_file()}
    found = {key: _first_match(file.parent, patterns) for key, patterns in _SIDE_FILES.items()}
    return file, {key: match for key, match in found.items() if match is not None}


def _only_table(folder: Path) -> Path:
    tables = sorted(part for part in folder.iterdir() if part.is_file() and set(part.suffixes) & set(SUFFIXES))
    named = [part for part in tables if part.name.split(".")[0].lower() in _EVENT_FILES]
    if len(named) == 1:
        return named[0]
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise DataError(f"{folder} holds nothing known: no u.data, ratings.dat, .inter, CSV, TSV or Parquet file")
    names = ", ".join(part.name for part in (named or tables))
    raise DataError(f"{folder} holds several tables ({names}); name the one with the events in ingest.path")


def _interactions(folder: Path) -> list[Path]:
    return sorted(part for part in folder.glob(f"*{INTERACTIONS}") if part.is_file())


def _only_interactions(folder: Path) -> Path:
    files = _interactions(folder)
    if not files:
        raise DataError(f"{folder} holds no {INTERACTIONS} file, which source recbole reads")
    if len(files) > 1:
        names = ", ".join(part.name for part in files)
        raise DataError(f"{folder} holds several {INTERACTIONS} files ({names}); name one in ingest.path")
    return files[0]


def _first_match(folder: Path, patterns: Sequence[str]) -> Path | None:
    known = {".dat", *SUFFIXES}
    for pattern in patterns:
        for match in sorted(folder.glob(pattern)):
            if match.name.startswith("u.") or match.suffix in known:
                return match
    return None


_FINDS: dict[str, Callable[[Path], Path]] = {"table": _only_table, "recbole": _only_interactions}
