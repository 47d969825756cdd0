"""Run the event collector, and its metrics on an address of their own."""

from __future__ import annotations

import argparse
import os
import sys

from config.command import exits_cleanly
from data.collect import settings
from data.collect.mapping import load_rules
from data.collect.settings import variable
from data.collect.write_keys import WriteKey
from web import service
from web.keys import read_keys

NAME, APP = "collector", "data.collect.app:create_app"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.collect.serve", description=__doc__)
    parser.add_argument("--host", help=f"default: {variable('host')}, or loopback")
    parser.add_argument("--port", type=int, help=f"default: {variable('port')}, or 8070")
    for field, value in vars(parser.parse_args(argv)).items():
        if value is not None:
            os.environ[variable(field)] = str(value)
    collect = settings.load()
    with service.only_one(NAME, collect, variable):
        load_rules(collect.mapping)  # an error in them ends the command here, with one line
        if not read_keys(collect.write_keys, WriteKey):
            print("no write key exists yet: make one with `python -m data.collect.write_keys make`", file=sys.stderr)
        service.run(NAME, APP, collect, variable)
    return 0


if __name__ == "__main__":
    sys.exit(main())
