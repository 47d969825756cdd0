"""Manage the keys that sign gate reports and alias changes.

list         print the ids of the keys; the first one signs
create       make the first key, or a new one after the key was lost: what the lost key signed is no longer valid
rotate       sign with a new key; what the old keys signed stays valid
forget ID    remove a key, for example one that somebody else has read; what it signed is no longer valid
"""

from __future__ import annotations

import argparse
import sys

from config.command import exits_cleanly
from serving.deployment import signature
from serving.deployment.signature import SignatureError


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.gate_key", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("list", "create", "rotate", "forget"))
    parser.add_argument("id", nargs="?", help="the key to forget")
    arguments = parser.parse_args(argv)
    if (arguments.action == "forget") != (arguments.id is not None):
        raise SignatureError("only `forget` takes the id of a key; `list` prints the ids")
    if arguments.action == "create":
        key, path = signature.create_key()
        print(f"key {key} in {path} signs from now on")
    elif arguments.action == "rotate":
        key, path = signature.rotate_key()
        print(f"key {key} in {path} signs from now on; the older keys still verify")
    elif arguments.action == "forget":
        signature.forget_key(arguments.id)
        print(f"forgot key {arguments.id}; run the gate again for versions whose reports it signed")
    else:
        keys = signature.load_keys()
        for position, secret in enumerate(keys.secrets):
            print(f"{signature.key_id(secret)}  {'verifies' if position else 'signs and verifies'}  {keys.origin}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
