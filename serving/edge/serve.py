"""Run the recommendation API, and its metrics on an address of their own."""

from __future__ import annotations

import argparse
import os
import sys

from config.command import exits_cleanly
from serving.edge import settings
from serving.edge.keys import ApiKey
from serving.edge.settings import EdgeSettings, variable
from serving.edge.user_keys import load_keys
from web import service
from web.keys import read_keys

NAME, APP = "edge", "serving.edge.app:create_app"


def check(edge: EdgeSettings) -> None:
    """Check that every process will be able to start: one that cannot would be started again and again.

    Raises:
        UserError: the keys or the secret that hides users are invalid.
    """
    if not read_keys(edge.keys_path, ApiKey):
        lost = " (if there were some, restore them from a backup)" if (edge.home / "served").exists() else ""
        print(f"no API key exists yet: make one with `python -m serving.edge.keys make`{lost}", file=sys.stderr)
    load_keys(edge)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.edge.serve", description=__doc__)
    parser.add_argument("--host", help=f"default: {variable('host')}, or loopback")
    parser.add_argument("--port", type=int, help=f"default: {variable('port')}, or 8090")
    parser.add_argument("--workers", type=int, help=f"processes; default: {variable('workers')}, or 1")
    for field, value in vars(parser.parse_args(argv)).items():  # worker processes read the environment
        if value is not None:
            os.environ[variable(field)] = str(value)
    edge = settings.load()
    with service.only_one(NAME, edge, variable):
        check(edge)
        service.run(NAME, APP, edge, variable)
    return 0


if __name__ == "__main__":
    sys.exit(main())
