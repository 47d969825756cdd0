"""The newest move of each model's aliases that this machine has seen: what a registry may not go back behind.

Entries are signed and name the one before them, so none can be exchanged or left out in between. But whoever may write to
the registry can take the newest ones away, and an older state, signed as it is, would stand as the last. Who has seen
the newer one remembers its serial here, beside the server that it deploys to.
"""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from serving import settings, whole

FILE = "moves_seen.json"
KEPT = 200  # models; of the oldest nobody deploys any more


def name_of(registry: str, dataset: str, created: int | None) -> str:
    """The name of a model, which no other bears; a digest, since the address of a registry may hold a password."""
    return sha256(f"{registry} {dataset} {created}".encode()).hexdigest()[:32]


def last(model: str) -> int:
    """The serial of the last entry that was seen of a model; 0 for none."""
    return _read().get(model, 0)


def remember(model: str, serial: int) -> None:
    known = _read()
    if serial > known.get(model, 0):
        known.pop(model, None)
        _write(dict(list(known.items())[-KEPT + 1 :]) | {model: serial})


def forget(model: str) -> None:
    """Take whatever comes next for the newest."""
    known = _read()
    if known.pop(model, None) is not None:
        _write(known)


def path() -> Path:
    return settings.load().server_home / FILE


def _read() -> dict[str, int]:
    try:
        known = json.loads(path().read_text())
    except (OSError, ValueError):  # none yet, or cut short by a full disk: what it knew is known no more
        return {}
    return known if isinstance(known, dict) else {}


def _write(known: dict[str, int]) -> None:
    with suppress(OSError):  # a full disk costs this memory, never a rollback
        whole.write(path(), json.dumps(known, indent=1).encode())
