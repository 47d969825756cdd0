"""Who decided."""

from __future__ import annotations

import os
import pwd
import socket

import pytest

from config.current_user import current_user

OS_USER = f"{pwd.getpwuid(os.geteuid()).pw_name}@{socket.gethostname()} (OS user)"
CI = ("GITHUB_ACTIONS", "GITHUB_ACTOR", "GITHUB_TRIGGERING_ACTOR")


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CI:
        monkeypatch.delenv(name, raising=False)


def test_variables_that_anyone_can_set_do_not_name_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")

    assert current_user() == OS_USER


def test_in_ci_the_person_who_triggered_the_run_is_named_and_labelled_as_unverified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_ACTOR", "alice")
    monkeypatch.setenv("GITHUB_TRIGGERING_ACTOR", "bob")  # of a run that bob started again

    assert current_user() == f"{OS_USER} for github:bob (CI, unverified)"


def test_outside_ci_the_variables_of_ci_name_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "mallory")

    assert current_user() == OS_USER
