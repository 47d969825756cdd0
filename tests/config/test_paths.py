"""State lies apart from products, one variable moves it, and no other module builds such a path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from config import paths

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("config", "web", "data", "features", "training", "serving", "experiments")
BUILT = re.compile(r"""Path\(f?"(out|state)\b|/ f?"(out|state)\b|"sqlite:///(out|state)""")


def test_state_lies_in_the_project_unless_the_variable_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_STATE")
    assert paths.state() == ROOT / "state"
    monkeypatch.setenv("TIDEGATE_STATE", "/srv/state")
    assert paths.mlflow_database() == Path("/srv/state/mlflow.db")
    assert paths.online_store() == "sqlite:////srv/state/online.db"


def test_no_product_lies_in_the_state_folder() -> None:
    values = [value for name, value in vars(paths).items() if name.isupper() and isinstance(value, Path)]
    products = [path for path in values if path not in (paths.ROOT, paths.PROJECT)]

    assert len(products) > 10
    assert all("out" in path.parts and "state" not in path.parts for path in products)


def test_no_other_module_builds_a_path_of_products_or_state() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path.name != "paths.py"]

    assert not [str(path.relative_to(ROOT)) for path in files if BUILT.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", ["plain folder", "100% real", "a?b#c", "д\"o'{x};y=z&w", "50%25"])
def test_a_sqlite_url_names_its_file_whatever_its_path(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "mlflow.db"
    url = paths.sqlite_url(file)

    assert paths.sqlite_file(url) == file
    assert (make_url(url).database, make_url(url).query) == (str(file), {"timeout": "60"})
    assert Path(url.removeprefix("sqlite:///")).parent in (file.parent, Path(".")), "MLflow creates this folder"


@pytest.mark.parametrize("url", ["postgresql://host/db", "http://host/sqlite:///x", "sqlite://"])
def test_other_urls_name_no_sqlite_file(url: str) -> None:
    assert paths.sqlite_file(url) is None
