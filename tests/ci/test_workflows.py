"""What the GitHub workflows may do: code that nobody has reviewed gets no secret and no right to write."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").iterdir()}
PULL_REQUEST_CODE = ("ci.yml", "evaluate.yml")  # may run what nobody has reviewed
PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def parse(text: str) -> dict[str, Any]:
    """The workflow, with its triggers under "on", which YAML 1.1 takes for a boolean."""
    parsed = yaml.safe_load(text)
    triggers = parsed.pop(True)
    return parsed | {"on": dict.fromkeys(triggers) if isinstance(triggers, list) else triggers}


def jobs(text: str) -> list[dict[str, Any]]:
    return list(parse(text)["jobs"].values())


def steps(text: str) -> list[dict[str, Any]]:
    return [step for job in jobs(text) for step in job["steps"]]


def runs(text: str) -> list[str]:
    return [step["run"] for step in steps(text) if "run" in step]


# --- the rules. Each returns what breaks it.


def faults(text: str) -> list[str]:
    """Of any workflow."""
    workflow = parse(text)
    found = [f"{line.strip()} is not pinned" for line in re.findall(r"uses: (.*)", text) if not PINNED.fullmatch(line)]
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("permissions are not read by default")
    if not workflow.get("concurrency", {}).get("group"):
        found.append("no concurrency group")
    if "pull_request_target" in workflow["on"]:
        found.append("pull_request_target")
    if any("${{" in run for run in runs(text)):
        found.append("an expression inside a command")
    checkouts = [step for step in steps(text) if "actions/checkout" in step.get("uses", "")]
    if any(step.get("with", {}).get("persist-credentials") is not False for step in checkouts):
        found.append("credentials stay in the clone")
    if not all("timeout-minutes" in job for job in jobs(text)):
        found.append("no timeout")
    if "workflow_run" not in workflow["on"] and any("permissions" in job for job in jobs(text)):
        found.append("rights of a job")
    if "secrets" in re.sub("#.*", "", text):
        found += secret_faults(workflow)
    return found


def secret_faults(workflow: dict[str, Any]) -> list[str]:
    """Of a workflow that uses secrets: after a merge only, in the protected environment, one at a time."""
    found = []
    pushes = workflow["on"].get("push", {})
    if not set(workflow["on"]) <= {"push", "workflow_dispatch"} or pushes.get("branches") != ["main"]:
        found.append("secrets before the merge")
    if workflow.get("concurrency") != {"group": "champion", "cancel-in-progress": False}:
        found.append("two runs may move the champion")
    for job in workflow["jobs"].values():
        if job.get("environment") != "production" or "github.ref == 'refs/heads/main'" not in job.get("if", ""):
            found.append("secrets outside the protected environment")
        if "secrets" in str(job.get("env")) or any("secrets" in str(step) for step in job["steps"] if "uses" in step):
            found.append("secrets for more than the commands that need them")
        with_gate_key = [
            step.get("run") for step in job["steps"] if "secrets.TIDEGATE_GATE_KEY }" in str(step.get("env"))
        ]
        if with_gate_key != ["make gate"]:
            found.append("the gate's key is not with the gate alone")
        if "secrets" in str([step for step in job["steps"] if step.get("run") == ".ci/install"]):
            found.append("secrets while packages are installed")
    return found


def pull_request_faults(text: str) -> list[str]:
    """Of a workflow that runs a pull request's code."""
    found = []
    code = re.sub("#.*", "", text)
    if "secrets" in code or "github.token" in code:
        found.append("a secret")
    for job in jobs(text):
        if "permissions" in job or "environment" in job:
            found.append("rights")
        if job["runs-on"] != "ubuntu-latest":
            found.append("a runner that outlives the job")
        if "TIDEGATE_DVC_REMOTE" in str(job):
            found.append("the shared cache")
    return found


def comment_faults(text: str) -> list[str]:
    """Of the workflow that may write to pull requests."""
    workflow = parse(text)
    (job,) = workflow["jobs"].values()
    found = []
    if list(workflow["on"]) != ["workflow_run"]:
        found.append("it runs as the pull request's own file says")
    if job.get("permissions") != {"actions": "read", "contents": "read", "pull-requests": "write"}:
        found.append("rights")
    checkout, *others = job["steps"]
    if checkout.get("with", {}).get("ref") != "${{ github.event.repository.default_branch }}":
        found.append("code of the pull request")
    if [step.get("run") for step in others] != ["python3 .ci/comment.py"]:
        found.append("more than the comment")
    return found


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_workflows_are_pinned_read_only_and_one_at_a_time(name: str) -> None:
    assert faults(WORKFLOWS[name]) == []


@pytest.mark.parametrize("name", PULL_REQUEST_CODE)
def test_code_of_pull_requests_gets_no_secret_and_no_rights(name: str) -> None:
    assert pull_request_faults(WORKFLOWS[name]) == []


def test_the_comment_runs_no_code_of_the_pull_request() -> None:
    assert comment_faults(WORKFLOWS["comment.yml"]) == []


def test_every_workflow_has_its_rules() -> None:
    on_pull_request = {name for name, text in WORKFLOWS.items() if "pull_request" in parse(text)["on"]}

    assert on_pull_request == set(PULL_REQUEST_CODE)
    assert set(WORKFLOWS) == {*PULL_REQUEST_CODE, "comment.yml", "promote.yml"}
    assert "secrets." in WORKFLOWS["promote.yml"]


MUTATIONS = [  # file, what it says, what it would say, the fault
    ("ci.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "is not pinned"),
    ("ci.yml", "  contents: read\n", "  contents: write\n", "permissions are not read"),
    ("ci.yml", "permissions:\n  contents: read\n", "permissions: write-all\n", "permissions are not read"),
    ("ci.yml", "  pull_request:\n", "  pull_request_target:\n", "pull_request_target"),
    ("ci.yml", "persist-credentials: false", "persist-credentials: true", "credentials stay"),
    ("ci.yml", "run: make lint", 'run: make lint "${{ github.head_ref }}"', "an expression"),
    ("ci.yml", "    timeout-minutes: 40\n", "", "no timeout"),
    ("ci.yml", "vars.TORCH_INDEX", "secrets.TORCH_INDEX", "a secret"),
    ("evaluate.yml", "  group: evaluate-${{ github.ref }}\n", "", "no concurrency"),
    ("evaluate.yml", "    timeout-minutes: 120\n", "    timeout-minutes: 120\n    environment: production\n", "rights"),
    (
        "evaluate.yml",
        "    timeout-minutes: 120\n",
        "    timeout-minutes: 120\n    permissions: {contents: write}\n",
        "rights",
    ),
    ("evaluate.yml", "runs-on: ubuntu-latest", "runs-on: self-hosted", "outlives"),
    ("evaluate.yml", "    env:\n", "    env:\n      TIDEGATE_GATE_KEY: ${{ secrets.TIDEGATE_GATE_KEY }}\n", "a secret"),
    ("evaluate.yml", "    env:\n", "    env:\n      GH_TOKEN: ${{ github.token }}\n", "a secret"),
    (
        "evaluate.yml",
        "    env:\n",
        "    env:\n      TIDEGATE_DVC_REMOTE: ${{ vars.TIDEGATE_DVC_REMOTE }}\n",
        "shared cache",
    ),
    (
        "comment.yml",
        "github.event.repository.default_branch",
        "github.event.workflow_run.head_sha",
        "code of the pull request",
    ),
    ("comment.yml", "workflow_run:", "pull_request:", "own file"),
    ("comment.yml", "actions: read", "actions: write", "rights"),
    ("comment.yml", "run: python3 .ci/comment.py", "run: unzip gate.zip", "more than the comment"),
    ("promote.yml", "    environment: production\n", "", "outside the protected"),
    ("promote.yml", "    branches: [main]\n", "", "before the merge"),
    ("promote.yml", "  workflow_dispatch:\n", "  workflow_dispatch:\n  pull_request:\n", "before the merge"),
    ("promote.yml", "github.ref == 'refs/heads/main'", "true", "outside the protected"),
    ("promote.yml", "group: champion", "group: promote-${{ github.ref }}", "two runs"),
    ("promote.yml", "cancel-in-progress: false", "cancel-in-progress: true", "two runs"),
    (
        "promote.yml",
        "    env:\n",
        "    env:\n      TIDEGATE_GATE_KEY: ${{ secrets.TIDEGATE_GATE_KEY }}\n",
        "more than the commands",
    ),
    (
        "promote.yml",
        "secrets.TIDEGATE_OPERATOR_KEY }}",
        "secrets.TIDEGATE_GATE_KEY }}",
        "gate's key is not with the gate",
    ),
    ("promote.yml", ".ci/install", ".ci/install\n      env: {A: '${{ secrets.A }}'}", "packages are installed"),
    (
        "promote.yml",
        "    timeout-minutes: 120\n",
        "    timeout-minutes: 120\n    permissions: {contents: write}\n",
        "rights",
    ),
]


@pytest.mark.parametrize(("name", "old", "new", "fault"), MUTATIONS)
def test_a_workflow_that_breaks_a_rule_is_found(name: str, old: str, new: str, fault: str) -> None:
    assert old in WORKFLOWS[name]
    text = WORKFLOWS[name].replace(old, new, 1)

    found = faults(text)
    found += pull_request_faults(text) if name in PULL_REQUEST_CODE else []
    found += comment_faults(text) if name == "comment.yml" else []
    assert any(fault in each for each in found)


# --- what the workflows run


def test_promotion_and_evaluation_have_the_steps_of_ci_model_in_the_same_order() -> None:
    lines = (ROOT / ".ci/model").read_text(encoding="utf-8").splitlines()
    local = [line.replace(" --no-print-directory", "") for line in lines if line.startswith("make")]

    assert local == ["make reproduce", "make gate", "make stage"]
    for name in ("evaluate.yml", "promote.yml"):
        assert [run for run in runs(WORKFLOWS[name]) if run.startswith("make")] == local


def test_every_command_of_a_workflow_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = [run.split() for text in WORKFLOWS.values() for run in runs(text)]
    scripts = [word for command in commands for word in command if word.startswith(".ci/")]

    assert {command[1] for command in commands if command[0] == "make"} <= targets
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_the_verdict_survives_a_deployment_that_fails() -> None:
    *_, comment, upload = steps(WORKFLOWS["evaluate.yml"])

    assert comment["run"] == ".venv/bin/python -m experiments.gate --comment > out/experiments/gate.md"
    assert "!cancelled()" in comment["if"]
    assert "!cancelled()" in upload["if"]
    assert upload["with"]["path"] == "out/experiments/gate.*"


@pytest.mark.parametrize(("ready", "code"), [("true", 0), ("false", 1), ("", 1)])
def test_promotion_without_its_key_and_registry_fails_at_once(ready: str, code: int) -> None:
    first = next(step for step in steps(WORKFLOWS["promote.yml"]) if "run" in step)

    ended = subprocess.run(["bash", "-e", "-c", first["run"]], env=first["env"] | {"READY": ready}, capture_output=True)

    assert ended.returncode == code
    secrets = ("TIDEGATE_GATE_KEY", "TIDEGATE_OPERATOR_KEY", "MLFLOW_TRACKING_URI")
    for name in (*secrets, "TIDEGATE_TRUSTED_KEYS"):
        assert f"{'secrets' if name in secrets else 'vars'}.{name} != ''" in first["env"]["READY"]
        assert (name.encode() in ended.stdout) == bool(code)
