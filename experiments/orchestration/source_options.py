"""SOURCE, USERS, ITEMS, COLUMNS and NAME: which data a command is to run on, and the workspace that they lead to."""

from __future__ import annotations

import argparse
from pathlib import Path

from command import UserError
from experiments.orchestration import workspace


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
        columns = workspace.parse_columns(given.columns)
        return workspace.make(given.source, given.users, given.items, columns, given.name)
    if given.users or given.items or given.columns or given.name:
        raise UserError("USERS, ITEMS, COLUMNS and NAME describe a SOURCE; none was given")
    return None
