"""A small service that the tests start with limits of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from small_service import SmallService, StartSmall


@pytest.fixture
def start() -> Iterator[StartSmall]:
    running: list[SmallService] = []

    def begin(**limits: float) -> SmallService:
        running.append(SmallService(**limits))  # type: ignore[arg-type]
        return running[-1]

    yield begin
    for service in running:
        service.close()


@pytest.fixture
def service(start: StartSmall) -> SmallService:
    return start()
