"""Make, list and revoke the API keys of the edge. Only a key's hash is stored, so a key is shown once.

A key made with `--user` is for requests of that user only; others may name any user.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from typing import ClassVar

from config.command import exits_cleanly
from data.ids import canonical_id
from serving.edge import settings
from web.errors import ApiError
from web.keys import StoredKey, add_key, create, expires_after, read_keys, revoke_key


class ApiKey(StoredKey):
    """One stored API key."""

    kind: ClassVar[str] = "API key"
    command: ClassVar[str] = "serving.edge.keys"
    usage: ClassVar[str] = "`Authorization: Bearer KEY` or `X-API-Key: KEY`"

    user_id: str | None  # the one user that the key is for; None: any

    def permitted_user(self, user_id: str | None, is_numeric: bool = False) -> str | None:
        """The user to answer for, in the spelling of `data.ids`. Raises ApiError: 403 where the key is for another."""
        if self.user_id is None:
            return user_id
        own_id = canonical_id(self.user_id, is_numeric)
        if user_id is not None and user_id != own_id:
            raise ApiError(403, "user_id", "the API key is for one user, and this is another", reason="other_user")
        return own_id


def create_key(user_id: str | None = None, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """A new key: its text, which is shown once, and the entry to store."""
    return create(ApiKey, expires, user_id=user_id)


def format_key(key: ApiKey) -> str:
    """A stored key in one line."""
    user = "any user" if key.user_id is None else f"user {key.user_id}"
    return f"{key.id}  {key.expiry}  for {user}"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.edge.keys", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    make = actions.add_parser("make", help="make a key and print it")
    make.add_argument("--user", metavar="ID", help="the one user that it is for; default: any")
    make.add_argument("--days", type=float, default=90, help="until it expires; default: %(default)s")
    actions.add_parser("list", help="show the stored keys")
    revoke = actions.add_parser("revoke", help="make a key invalid from now on")
    revoke.add_argument("id", help="as `list` shows it")
    arguments = parser.parse_args(argv)
    path = settings.load().keys_path
    if arguments.action == "make":
        text, key = create_key(arguments.user, expires_after(arguments.days))
        add_key(path, key)
        print(text)
        print(f"stored as {format_key(key)}, in {path}; the key itself is not stored", file=sys.stderr)
    elif arguments.action == "revoke":
        revoke_key(path, ApiKey, arguments.id)
        print(f"revoked {arguments.id}")
    else:
        print("\n".join(map(format_key, read_keys(path, ApiKey))) or f"{path} holds no keys")
    return 0


if __name__ == "__main__":
    sys.exit(main())
