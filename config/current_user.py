"""Who runs this process, for the record of a decision."""

from __future__ import annotations

import os
import pwd
import socket


def current_user() -> str:
    """Who decides: `alice@host (OS user)`, from the process's user id; $USER and $LOGNAME, which anyone can set, do not count.

    On GitHub Actions the person is not the OS user, but whom the workflow's environment names. Nothing here verifies
    that, so it is labelled: `runner@host (OS user) for github:alice (CI, unverified)`.
    """
    user_id = os.geteuid()
    try:
        name = pwd.getpwuid(user_id).pw_name
    except KeyError:  # a container without this user in its password file
        name = f"uid-{user_id}"
    user = f"{name}@{socket.gethostname()} (OS user)"
    actor = os.environ.get("GITHUB_TRIGGERING_ACTOR") or os.environ.get("GITHUB_ACTOR")
    if os.environ.get("GITHUB_ACTIONS") == "true" and actor:
        return f"{user} for github:{actor} (CI, unverified)"
    return user
