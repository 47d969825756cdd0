"""Make, list and revoke the API keys of the edge. A key is shown once; only its hash is stored."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta

from config.command import UserError, exits_cleanly
from serving.edge import authentication, settings
from serving.edge.authentication import ROLES, SERVER, USER, ApiKey

MAX_DAYS = 3650


def create(arguments: argparse.Namespace, now: datetime) -> tuple[str, ApiKey]:
    """The key that the arguments describe.

    Raises:
        UserError: names the argument that does not fit.
    """
    if (arguments.role == USER) != (arguments.user is not None):
        raise UserError(f"--user names the one user of a key of --role {USER}, and of no other")
    if not 0 < arguments.days <= MAX_DAYS:
        raise UserError(f"--days is {arguments.days:g}; expected more than 0 and at most {MAX_DAYS}")
    return authentication.create_key(arguments.role, arguments.user, now + timedelta(days=arguments.days))


def format_key(key: ApiKey, now: datetime) -> str:
    """A stored key in one line."""
    state = "expired" if key.is_expired(now) else "expires"
    user = "any user" if key.role == SERVER else f"user {key.user_id}"
    return f"{key.id}  {key.role:<6}  {state} {key.expires or 'never'}  for {user}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.edge.keys", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    make = actions.add_parser("make", help="make a key and print it")
    make.add_argument("--role", choices=ROLES, default=SERVER, help="which users it may ask for; default: %(default)s")
    make.add_argument("--user", metavar="ID", help=f"the one user, for --role {USER}")
    make.add_argument("--days", type=float, default=90, help="until it expires; default: %(default)s")
    actions.add_parser("list", help="show the stored keys")
    revoke = actions.add_parser("revoke", help="make a key invalid from now on")
    revoke.add_argument("id", help="as `list` shows it")
    return parser


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    path, now = settings.load().keys_path, datetime.now(UTC)
    if arguments.action == "make":
        text, key = create(arguments, now)
        authentication.add_key(path, key)
        print(text)
        print(f"stored as {format_key(key, now)}, in {path}; the key itself is not stored", file=sys.stderr)
    elif arguments.action == "revoke":
        authentication.revoke_key(path, arguments.id)
        print(f"revoked {arguments.id}")
    else:
        print("\n".join(format_key(key, now) for key in authentication.read_keys(path)) or f"{path} holds no keys")
    return 0


if __name__ == "__main__":
    sys.exit(main())
