"""Where trace, impact and replay look, and how they show what they found."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.lineage import page as lineage_page
from experiments.lineage import report as lineage_report
from experiments.lineage.report import Part
from serving.edge import settings as edge
from serving.edge.pseudonym import secret_of


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--served", type=Path, metavar="FOLDER", help="the served log (default: the edge's own)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    how.add_argument("--html", type=Path, metavar="FILE", help="write a page")


def served(given: argparse.Namespace) -> Path:
    """The folder of the served log."""
    return given.served or edge.load().home / "served"


def secret(folder: Path) -> bytes | None:
    """What users are hidden under in a served log: as the environment states it, or as it lies beside the folder;
    None where neither has it."""
    stated, path = edge.load().user_secret.get_secret_value(), folder.parent / "user.key"
    if stated:
        return secret_of(stated, edge.variable("user_secret"))
    return secret_of(path.read_text().strip(), path) if path.is_file() else None


def show(title: str, parts: Sequence[Part], given: argparse.Namespace) -> None:
    """Print it, or write the page and say where."""
    if given.html is not None:
        given.html.parent.mkdir(parents=True, exist_ok=True)
        given.html.write_text(lineage_page.page(title, parts))
        notes = [f"; {part.name}: {part.note}" for part in parts if part.note]
        print(f"{title}: {len(parts)} parts{''.join(notes)} -> {given.html}")
        return
    print(lineage_report.as_json(title, parts) if given.json else lineage_report.as_text(title, parts))
