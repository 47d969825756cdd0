"""Scheduled retraining: the commands of cron and Kubernetes exist, and two never run at once."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from config.paths import ROOT
from experiments import retrain
from experiments.orchestration import workspace
from experiments.orchestration.steps import AlreadyRunningError, only_one

FOLDER = ROOT / "experiments/schedule"
CRONJOB = yaml.safe_load((FOLDER / "cronjob.yaml").read_text(encoding="utf-8"))
(LINE,) = (line for line in (FOLDER / "crontab").read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
FIELD = re.compile(r"(\*|\d+(-\d+)?)(/\d+)?(,\d+)*")
JOB = CRONJOB["spec"]["jobTemplate"]["spec"]
(CONTAINER,) = JOB["template"]["spec"]["containers"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[str]], argparse.Namespace]:
    """Run `make retrain ...` with `echo` in place of Python, and return the arguments that retrain gets."""
    received: list[argparse.Namespace] = []
    monkeypatch.setattr(workspace, "HOME", tmp_path)
    monkeypatch.setattr(retrain, "retrain", lambda arguments, dataset: received.append(arguments))

    def start(command: list[str]) -> argparse.Namespace:
        assert retrain.main(retrain_arguments(command)) == 0
        return received.pop()

    return start


def retrain_arguments(command: list[str]) -> list[str]:
    """The arguments that `make retrain ...` passes on."""
    assert command[:2] == ["make", "retrain"]
    # -o: the Makefile counts as new, or a lock that was checked out after it would bring an install.
    printed = ["make", "-o", "Makefile", *command[1:], "PY=echo", "STAMP=Makefile"]
    own = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}  # not a part of `make test`
    command_line = subprocess.run(printed, cwd=ROOT, env=own, capture_output=True, encoding="utf-8", check=True).stdout
    module, *arguments = shlex.split(command_line.removeprefix("-m "))
    assert module == "experiments.retrain"
    return arguments


def test_retrain_accepts_the_command_of_the_cron_job(started) -> None:
    options = started(CONTAINER["command"])

    assert (options.source, options.users) == (Path("/srv/events/events.parquet"), Path("/srv/events/users.parquet"))
    assert (options.name, options.no_deploy, options.no_consent) == ("shop", True, False)
    assert started([*CONTAINER["command"], "NO_CONSENT=1"]).no_consent


def test_retrain_accepts_the_command_of_the_crontab(started) -> None:
    fields, command = LINE.split(maxsplit=5)[:5], LINE.split(maxsplit=5)[5]
    options = started(shlex.split(command.partition(" && ")[2].partition(" >>")[0]))

    assert all(FIELD.fullmatch(field) for field in fields)
    assert "%" not in command, "cron takes it for a new line"
    assert (options.source, options.users) == (Path("/srv/events/events.parquet"), Path("/srv/events/users.parquet"))
    assert (options.name, options.no_deploy) == ("shop", False)


def test_kubernetes_starts_one_job_at_a_time_and_mounts_what_it_reads(started) -> None:
    mounts = {one["name"]: one["mountPath"] for one in CONTAINER["volumeMounts"]}

    assert (CRONJOB["apiVersion"], CRONJOB["kind"]) == ("batch/v1", "CronJob")
    assert CRONJOB["spec"]["concurrencyPolicy"] == "Forbid"
    assert all(FIELD.fullmatch(field) for field in CRONJOB["spec"]["schedule"].split())
    assert (JOB["backoffLimit"], JOB["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert mounts["tidegate"] == CONTAINER["workingDir"]
    assert started(CONTAINER["command"]).source.is_relative_to(mounts["events"])
    assert mounts.keys() == {one["name"] for one in JOB["template"]["spec"]["volumes"]}


def test_a_second_retraining_says_who_runs_already_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workspace, "HOME", tmp_path)
    monkeypatch.setattr(retrain, "retrain", lambda *_: pytest.fail("it ran beside the other"))
    with only_one(tmp_path / "shop.retrain.lock", "a retraining of shop"):
        assert retrain.main(["--source", "events.csv", "--name", "shop"]) == os.EX_TEMPFAIL

    printed = capsys.readouterr().err
    assert re.fullmatch(
        rf"error: a retraining of shop runs already: pid {os.getpid()} by \S+@\S+ \(OS user\), since \S+Z\n", printed
    ), printed


def test_the_lock_is_free_once_its_holder_has_failed_and_another_data_sets_never_held_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_one(tmp_path / "shop.lock", "it"):
        raise KeyError
    held = only_one(tmp_path / "shop.lock", "it"), only_one(tmp_path / "films.lock", "it")
    with held[0], held[1], pytest.raises(AlreadyRunningError, match="it runs already: pid"):
        only_one(tmp_path / "shop.lock", "it").__enter__()


def test_a_name_that_is_no_data_sets_leaves_no_lock_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workspace, "HOME", tmp_path / "workspaces")

    assert retrain.main(["--source", "events.csv", "--name", "../shop"]) == 2
    assert "NAME is '../shop'; expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
