"""Each command has a module, an entry point in MLproject, a stage in dvc.yaml and a section of params.yaml that agree."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import grimp
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "web", "data", "features", "training", "serving", "experiments")
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
PYTHON_M = re.compile(r"^(?:python|\$\{python\}) -m ([a-z_.]+)( |$)")

# Commands without a section of params.yaml, and why.
WITHOUT_SECTION = {
    "materialize": "uses the section online, as every writer of the store does",
    "export": "writes what train fitted, unchanged",
    "package": "copies the artifact and the worker code into an archive",
    "compare": "compares numbers that evaluate measured",
    "refit_full": "uses the section retrain",
    "deploy": "makes TorchServe match the registry; addresses and tokens come from the environment",
    "demo": "runs the other commands, each with its own section",
}
# Sections of params.yaml that are not named after a command, and the command that reads them.
SECTION_OF = {"simulate": "ingest", "segments": "evaluate", "serve": "export", "online": "materialize"}
# Modules that a stage reads as files: package copies what the worker's entry point imports.
ALSO_READ = {"package": ["serving.worker.handler"]}
# Modules that can be run but are not entry points of MLproject, and what they are for.
OTHER_COMMANDS = {
    "data.collect.event_reference": "writes the pages of the event schema",
    "data.collect.pull": "sends a file or URL of users, items or events to the event collector",
    "data.collect.rejected": "searches and replays rejected events",
    "data.collect.serve": "runs the event collector until it is stopped",
    "data.collect.write_keys": "creates, lists and revokes the write keys of the event collector",
    "data.download": "downloads a public dataset for ingest",
    "data.simulate": "writes the simulated platform as files",
    "data.collect.snapshot": "writes the event log as daily partitions, which ingest reads",
    "experiments.impact": "follows data to runs, versions, endpoints and answers",
    "experiments.replay": "computes a recorded answer again",
    "experiments.trace": "follows an answer back to the events that it read",
    "serving.ask": "sends one request to the endpoint",
    "serving.backup": "saves and restores state/",
    "serving.batch": "writes recommendations for all users to a file",
    "serving.container": "runs the supervisor and the edge until it is stopped, as in a container",
    "serving.edge.keys": "creates and revokes API keys of the edge",
    "serving.edge.user_keys": "rotates, lists and expires the keys of pseudonyms in the served log",
    "serving.edge.serve": "runs the edge until it is stopped",
    "serving.signing_keys": "lists, creates, rotates, trusts and forgets the keys of signatures",
    "serving.install": "serves an archive without a registry, as in a container",
    "serving.supervisor": "keeps TorchServe running until it is stopped",
    "serving.server": "starts and stops TorchServe on this machine",
}


def module_of(command: str) -> str:
    """The module that `python -m module ...` runs."""
    match = PYTHON_M.match(command)
    assert match, f"{command!r} is not `python -m folder.command ...`"
    return match[1]


COMMANDS = {name: module_of(entry["command"]) for name, entry in ENTRY_POINTS.items()}


@cache
def sections() -> dict:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return {name: section for name, section in params.items() if isinstance(section, dict)}


@cache
def stages() -> dict[str, dict]:
    """Stage name -> its definition, also of `matrix` and `foreach` stages."""
    return {name: stage.get("do", stage) for name, stage in PIPELINE["stages"].items()}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*FOLDERS, include_external_packages=True, cache_dir=None)


def command_of(stage: str) -> str:
    """`train-baselines` runs the command train."""
    return stage.partition("-")[0]


def flatten(values: list) -> list[str]:
    """The paths of a `deps` or `params` list, whose entries may be text, {path: options} or a nested list."""
    flat: list[str] = []
    for value in values:
        if isinstance(value, list):
            flat += flatten(value)
        else:
            flat += [value] if isinstance(value, str) else list(value)
    return flat


def runnable() -> set[str]:
    """Every module of the folders that ends with `if __name__ == "__main__"`."""
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"):
                found.add(".".join(parts))
    return found


def imported_files(module: str) -> set[str]:
    """Every file of the project that `module` imports directly or indirectly, and its own."""
    everything = graph().find_upstream_modules(module) | {module}
    files = set()
    for name in everything:
        path = ROOT / Path(*name.split("."))
        if path.with_suffix(".py").exists():  # a folder's own file is one docstring and changes nothing
            files.add(path.with_suffix(".py").relative_to(ROOT).as_posix())
    return files


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_a_module_of_its_name_that_ends_by_running_main(command: str) -> None:
    path = ROOT / Path(*COMMANDS[command].split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert path.stem == command
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    sys.exit(main())"


@pytest.mark.parametrize("command", COMMANDS)
def test_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(COMMANDS[command])

    with pytest.raises(SystemExit) as end:
        module.main(["--help"])

    assert end.value.code == 0
    printed = capsys.readouterr().out
    missing = [name for name in ENTRY_POINTS[command].get("parameters", {}) if f"--{name}" not in printed]
    assert not missing, f"MLproject passes --{missing[0]} to {command}, whose --help does not know it"


@pytest.mark.parametrize("command", COMMANDS)
def test_command_refuses_an_unknown_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(COMMANDS[command]).main(["--no-such-option"])

    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_every_module_with_a_main_is_listed() -> None:
    assert runnable() == set(COMMANDS.values()) | set(OTHER_COMMANDS)


def test_every_verb_has_a_section_or_says_why_not() -> None:
    assert set(COMMANDS) - set(sections()) == set(WITHOUT_SECTION)
    assert set(sections()) - set(COMMANDS) == set(SECTION_OF)
    assert set(SECTION_OF.values()) <= set(COMMANDS)


def test_the_pipeline_has_a_stage_for_each_of_its_commands() -> None:
    pipeline = {"ingest", "split", "featurize", "train", "export", "evaluate", "package"}

    assert pipeline <= {command_of(name) for name in stages()} <= set(COMMANDS)


def test_every_stage_runs_its_command() -> None:
    for name, stage in stages().items():
        assert module_of(stage["cmd"]) == COMMANDS.get(command_of(name)), name


@cache
def selected() -> dict[str, list[str]]:
    """The models that dvc.yaml fits and ranks, by kind."""
    variables = {name: value for one in PIPELINE["vars"] for name, value in one.items() if name != "python"}
    return {name: value["model"] if isinstance(value, dict) else value for name, value in variables.items()}


def test_the_pipeline_runs_models_of_params_and_not_those_that_take_long() -> None:
    lists = selected()

    assert set(lists["ranked"]) <= set(sections()["train"]["models"]) - {"ials", "sasrec"}
    assert lists["ranked"] == lists["baselines"] + lists["networks"] + lists["hybrids"]


def test_the_baselines_stage_names_each_of_its_models() -> None:
    stage, labels = stages()["train-baselines"], selected()["baselines"]

    assert stage["outs"] == [f"out/training/{label}" for label in labels]
    assert [key for key in stage["params"] if key.startswith("train.models.")] == [
        f"train.models.{label}" for label in labels
    ]


def test_a_network_is_refitted_only_for_its_own_hyperparameters() -> None:
    keys = [key for key in stages()["train-network"]["params"] if key.startswith("train.models")]

    assert keys == ["train.models.${item.model}"]


def test_a_hybrid_waits_for_its_parts() -> None:
    parts = {part for label in selected()["hybrids"] for part in sections()["train"]["models"][label]["parts"]}

    assert {f"out/training/{part}" for part in parts} <= set(stages()["train-hybrid"]["deps"])


def test_every_stage_depends_on_its_section() -> None:
    for name, stage in stages().items():
        if command_of(name) in sections():
            keys = [key.partition(".")[0] for key in flatten(stage.get("params", []))]
            assert command_of(name) in keys, f"{name} does not list its section of params.yaml"


def test_every_stage_depends_on_all_the_code_that_it_imports() -> None:
    missing = {}
    for name, stage in stages().items():
        deps = {str(Path(path)) for path in flatten(stage["deps"])}
        modules = [module_of(stage["cmd"]), *ALSO_READ.get(name, [])]
        code = set().union(*map(imported_files, modules))
        if absent := {file for file in code if not {file, *map(str, Path(file).parents)} & deps}:
            missing[name] = sorted(absent)

    assert not missing, "a stage that leaves out code stays unchanged when that code changes"


def test_every_dependency_on_code_exists() -> None:
    for name, stage in stages().items():
        code = [path for path in flatten(stage["deps"]) if not path.startswith("out/")]
        assert not [path for path in code if not (ROOT / path).exists()], name


def test_no_stage_depends_on_a_folder_that_holds_its_outputs() -> None:
    # DVC would always find such a stage changed.
    for name, stage in stages().items():
        outputs = [Path(path) for key in ("outs", "metrics", "plots") for path in flatten(stage.get(key, []))]
        holding = {str(up) for output in outputs for up in output.parents}
        assert not holding & {str(Path(path)) for path in flatten(stage["deps"])}, name
