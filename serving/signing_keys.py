"""Manage the keys that sign gate reports, decisions and archives, and the public keys that this machine trusts.

list           print the trusted public keys, and which of them sign here
create [ROLE]  make the private keys (or the one of a role) that this machine does not have, and trust them
rotate ROLE    sign with a new key; what the old one signed stays valid until its public key is forgotten
trust LINE     trust a public key of another machine: a line that `list` prints there
forget ID      no longer trust a public key, for example because somebody has read its private key

A role is gate (gate reports, promotions; may sign everything) or operator (rollbacks, overrides, rollout steps, archives).
"""

from __future__ import annotations

import argparse
import sys

from config.command import exits_cleanly
from serving.deployment import key_pairs
from serving.deployment.errors import SignatureError
from serving.deployment.key_pairs import ROLES


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=key_pairs.COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list")
    actions.add_parser("create").add_argument("role", choices=ROLES, nargs="?")
    actions.add_parser("rotate").add_argument("role", choices=ROLES)
    actions.add_parser("trust").add_argument("line")
    actions.add_parser("forget").add_argument("id")
    arguments = parser.parse_args(argv)
    if arguments.action == "create":
        new = key_pairs.create([arguments.role] if arguments.role else ROLES)
        if not new:
            raise SignatureError(f"there is a key already; `{key_pairs.COMMAND} rotate ROLE` makes another one")
        for key in new:
            print(f"{key.role} key {key.id} in {key_pairs.key_path(key.role)} signs from now on")
        print("other machines trust its signatures once they have this line:", *new, sep="\n")
    elif arguments.action == "rotate":
        key = key_pairs.rotate(arguments.role)
        print(
            f"{key.role} key {key.id} in {key_pairs.key_path(key.role)} signs from now on; the old one still verifies"
        )
        print("other machines trust its signatures once they have this line:", key, sep="\n")
    elif arguments.action == "trust":
        key = key_pairs.trust(arguments.line)
        print(f"the {key.role} key {key.id} is trusted here")
    elif arguments.action == "forget":
        key_pairs.forget(arguments.id)
        print(
            f"forgot key {arguments.id}; if it signed decisions, `python -m serving.deploy --override VERSION --reason ...` "
            "accepts the log; then run the gate again for versions whose reports it signed"
        )
    else:
        known, own = key_pairs.trusted(), {key.id for key in key_pairs.own_keys()}
        for key in known.keys.values():
            print(f"{key.id}  {'signs and verifies' if key.id in own else 'verifies'}  {key}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
