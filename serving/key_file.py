"""Read a file that holds secret keys, and refuse one that is damaged or open to others.

Our own keys have 64 hexadecimal digits. A file that was cut off, for instance by a full disk, would otherwise be a key of
its own: nothing that the whole key made would be accepted, and nobody would know why.
"""

from __future__ import annotations

import re
from pathlib import Path

from config.command import UserError

OWN_KEY_DIGITS = 64
HEXADECIMAL = re.compile(r"[0-9a-f]+")
RIGHTS_OF_OTHERS = 0o077


def read_key_file(path: Path, recovery: str, error: type[UserError]) -> str:
    """The text of a file of keys, at least one.

    Args:
        recovery: what to do if the keys are lost; it ends the message.
        error: raised if the file cannot be read, is empty, damaged or cut off, or is open to other users.
    """
    try:
        mode, text = path.stat().st_mode & 0o777, path.read_text(encoding="utf-8")
    except OSError as fault:
        raise error(f"{path} cannot be read ({fault.strerror}); {recovery}") from None
    except UnicodeDecodeError:
        raise error(f"{path} is damaged: it is not text; {recovery}") from None
    keys = text.split()
    if not keys:
        raise error(f"{path} is empty; {recovery}")
    if not all(key.isprintable() for key in keys):  # a power failure can leave zeros
        raise error(f"{path} is damaged: it is not text; {recovery}")
    if HEXADECIMAL.fullmatch(keys[-1]) and len(keys[-1]) < OWN_KEY_DIGITS and not text.endswith("\n"):
        digits = f"its last key has {len(keys[-1])} of {OWN_KEY_DIGITS} digits and no line break after it"
        raise error(f"{path} was cut off: {digits} (if it is whole, add one); {recovery}")
    if mode & RIGHTS_OF_OTHERS:
        raise error(
            f"{path} is open to other users (mode {mode:04o}); chmod 600 it, and replace the key if somebody read it"
        )
    return text
