"""Make, list and revoke the API keys of the edge. A key is shown once; what is stored is its hash."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta

from config.command import UserError, exits_cleanly
from serving.edge import keyring, settings
from serving.edge.keyring import ROLES, SERVER, USER, Key

MOST_DAYS = 3650


class KeysError(UserError):
    """The command line does not describe a key."""


def make(arguments: argparse.Namespace, now: datetime) -> tuple[str, Key]:
    """The key that the arguments describe.

    Raises:
        KeysError: says which argument does not fit.
    """
    if (arguments.role == USER) != (arguments.user is not None):
        raise KeysError(f"--user names the one user of a key of --role {USER}, and of no other")
    if not 0 < arguments.days <= MOST_DAYS:
        raise KeysError(f"--days is {arguments.days:g}; expected more than 0 and at most {MOST_DAYS}")
    return keyring.new(arguments.role, arguments.user, now + timedelta(days=arguments.days))


def line(key: Key, now: datetime) -> str:
    """A stored key in one line."""
    state = "expired" if key.expired(now) else "expires"
    whom = "anybody" if key.role == SERVER else f"user {key.user_id}"
    return f"{key.id}  {key.role:<6}  {state} {key.expires or 'never'}  asks for {whom}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.edge.keys", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    making = actions.add_parser("make", help="make a key and print it")
    making.add_argument("--role", choices=ROLES, default=SERVER, help="whom it may ask for; default: %(default)s")
    making.add_argument("--user", metavar="ID", help=f"the one user, for --role {USER}")
    making.add_argument("--days", type=float, default=90, help="until it expires; default: %(default)s")
    actions.add_parser("list", help="show what is stored")
    revoking = actions.add_parser("revoke", help="let a key open nothing from now on")
    revoking.add_argument("id", help="as `list` shows it")
    return parser


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    path, now = settings.load().keys_path, datetime.now(UTC)
    if arguments.action == "make":
        text, key = make(arguments, now)
        keyring.add(path, key)
        print(text)
        print(f"kept as {line(key, now)}, in {path}; the key itself is not kept", file=sys.stderr)
    elif arguments.action == "revoke":
        keyring.revoke(path, arguments.id)
        print(f"revoked {arguments.id}")
    else:
        print("\n".join(line(key, now) for key in keyring.read(path)) or f"{path} holds no keys")
    return 0


if __name__ == "__main__":
    sys.exit(main())
