"""Users under a name that only this service can give them: a keyed hash, for logs and cache keys."""

from __future__ import annotations

import os
import secrets
from hashlib import blake2b
from pathlib import Path
from typing import Any

from config.command import UserError

LEAST_CHARACTERS = 16
PUBLIC = "trends"  # of the parts of `serving.worker.response`: it is of everybody's events, and of nobody's


class SecretError(UserError):
    """The secret that hides users is missing, or is none."""


def load_secret(stated: str, path: Path) -> bytes:
    """The stated secret, or the one in the file, made at first use and readable by its owner alone.

    Raises:
        SecretError: it is too short to hide anything.
    """
    return secret_of(stated or _kept(path), "TIDEGATE_EDGE_USER_SECRET" if stated else path)


def secret_of(text: str, origin: object) -> bytes:
    """The secret that a text stands for. Raises SecretError: it is too short."""
    if len(text) < LEAST_CHARACTERS:
        raise SecretError(f"{origin} holds {len(text)} characters; expected at least {LEAST_CHARACTERS}")
    return blake2b(text.encode(), digest_size=32).digest()


def pseudonym(secret: bytes, user_id: str) -> str:
    """32 hexadecimal digits: the same for the same user, and meaningless without the secret."""
    return blake2b(user_id.encode("utf-8", "surrogatepass"), key=secret, digest_size=16).hexdigest()


def hidden(secret: bytes, inputs: Any) -> dict[str, str] | None:
    """The worker's digests of what it read, for the served log: those of a person's events under the secret, or
    whoever can guess a short history could tell whose it is. None where the worker states none."""
    if not isinstance(inputs, dict):
        return None
    return {name: str(one) if name == PUBLIC else pseudonym(secret, f"{name} {one}") for name, one in inputs.items()}


def _kept(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(partial, path)  # of several processes that start at once, one wins, with a whole file
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    return path.read_text().strip()
