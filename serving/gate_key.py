"""Look after the key that signs gate reports and moves of aliases: list, rotate, forget.

list         ids of the keys that verify; the first signs
rotate       a new key signs from now on; what the old ones signed still counts
forget ID    what that key signed counts no longer: for a key that somebody else has read
"""

from __future__ import annotations

import argparse
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.command import exits_cleanly
from serving import settings as environment
from serving.deployment import signature
from serving.deployment.signature import SignatureError, key_id
from serving.settings import variable


def rotate(path: Path) -> str:
    """Put a new key in front; its id."""
    with _changing(path) as found:
        found.insert(0, signature.new_secret())
        return key_id(found[0])


def forget(path: Path, name: str) -> None:
    """Take a key away.

    Raises:
        SignatureError: there is no such key, or it is the one that signs.
    """
    with _changing(path) as found:
        ids = [key_id(secret) for secret in found]
        if name not in ids:
            raise SignatureError(f"{path} holds no key {name}; it holds {', '.join(ids)}")
        if ids.index(name) == 0:
            raise SignatureError(f"the key {name} signs; rotate first")
        del found[ids.index(name)]


@contextmanager
def _changing(path: Path) -> Iterator[list[str]]:
    """The keys of a file, to be changed in place: one process at a time, and the file is replaced whole."""
    signature.load(making=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = list(signature.load().secrets)
        yield found
        signature.write(path, found).replace(path)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.gate_key", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("list", "rotate", "forget"))
    parser.add_argument("id", nargs="?", help="of the key to forget")
    arguments = parser.parse_args(argv)
    if (arguments.action == "forget") != (arguments.id is not None):
        raise SignatureError("forget, and no other action, takes the id of a key; `list` shows them")
    path = _path() if arguments.action != "list" else None
    if path and arguments.action == "rotate":
        print(f"{rotate(path)} signs from now on: {path}")
    elif path:
        forget(path, arguments.id)
        print(f"forgot {arguments.id}: what it signed counts no longer, so judge anew what it let serve")
    else:
        keys = signature.load()
        for place, secret in enumerate(keys.secrets):
            print(f"{key_id(secret)}  {'verifies' if place else 'signs and verifies'}  {keys.origin}")
    return 0


def _path() -> Path:
    settings = environment.load()
    if settings.gate_key.get_secret_value():
        name = variable("gate_key")
        raise SignatureError(f"{name} holds the keys, the one that signs first: put a new one there, before a space")
    return settings.gate_key_path


if __name__ == "__main__":
    sys.exit(main())
