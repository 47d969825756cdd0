"""A profile store in the test's own process."""

from __future__ import annotations

from serving.edge.consent import NO_PROFILE, UserProfile


class MemoryProfiles:
    """Profiles by user id; a user without one is unknown."""

    def __init__(self, profiles: dict[str, UserProfile] | None = None) -> None:
        self.profiles = profiles or {}

    async def read(self, user_id: str) -> UserProfile:
        return self.profiles.get(user_id, NO_PROFILE)

    def close(self) -> None:
        return None
