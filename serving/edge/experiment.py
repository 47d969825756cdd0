"""Which arm of an experiment a user is in: the same one for as long as the shares stay, without storing anything."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

from serving.edge.settings import Arm


class Bucket(NamedTuple):
    """Where a user is: the arm's name, the version that answers there, and the experiment; None where there is none."""

    arm: str | None
    version: str | None
    experiment: str | None = None


NOBODY = Bucket(None, None)


class Experiment:
    """Arms are laid on [0, 1) in the order in which they are declared, and a user's hash is a point on it.

    So a first arm that grows keeps the users that it has: a canary is declared first.

    Args:
        name: salts the hash: two experiments split users independently.
        arms: name -> share and version; shares sum to 1.
    """

    def __init__(self, name: str, arms: Mapping[str, Arm]) -> None:
        self.name = name or None
        self._salt = name.encode()
        self._ends: list[tuple[float, Bucket]] = []
        end = 0.0
        for arm, about in arms.items():
            end += about.share
            self._ends.append((end, Bucket(arm, about.version, self.name)))

    def bucket(self, user_id: str) -> Bucket:
        """The user's arm."""
        if not self._ends:
            return NOBODY
        at = point(self._salt, user_id)
        return next(
            (bucket for end, bucket in self._ends if at < end), self._ends[-1][1]
        )  # shares may sum to 1 - 1e-16


def point(salt: bytes, user_id: str) -> float:
    """A number in [0, 1), uniform over users and the same on every machine."""
    digest = blake2b(len(salt).to_bytes(8, "big") + salt + user_id.encode("utf-8", "surrogatepass"), digest_size=8)
    return (int.from_bytes(digest.digest(), "big") >> 11) / (1 << 53)  # 53 bits: a float holds them exactly
