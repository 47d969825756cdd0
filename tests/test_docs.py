"""Commands, options and links in the documentation exist."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def commands(document: Path) -> list[str]:
    """Every line of a fenced block, and every `code span` of the prose."""
    text = document.read_text(encoding="utf-8")
    lines = [line.strip() for block in FENCE.findall(text) for line in block.splitlines()[1:-1]]
    return [line.removeprefix("$ ") for line in lines] + CODE_SPAN.findall(FENCE.sub("", text))


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def anchors(document: Path) -> set[str]:
    """The names under which a document's headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_every_make_command_is_a_target(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", makefile(), re.MULTILINE))
    for command in commands(document):
        if match := re.match(r"(?:[A-Z_]+=\S* )*make ([a-z-]+)((?: [A-Z_]+=\S*)*)", command):
            assert match[1] in targets, command
            for variable in re.findall(r" ([A-Z_]+)=", match[2]):
                assert re.search(rf"\b{variable}\b", makefile()), f"{command}: no {variable} in the Makefile"


@each_document
def test_every_python_command_is_a_module(document: Path) -> None:
    for command in commands(document):
        for module in re.findall(r"python3? -m ([\w.]+)", command):
            if module != "folder.command":  # the placeholder
                assert importlib.util.find_spec(module), command


@each_document
def test_every_option_of_a_python_command_exists(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(document):
        for module, rest in re.findall(
            r"python3? -m ((?:config|data|features|training|serving|experiments)[\w.]*)(.*)", command
        ):
            options = re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)
            if not options or "--help" in options:
                continue
            with pytest.raises(SystemExit):
                importlib.import_module(module).main([*subcommand(rest), "--help"])
            known = capsys.readouterr().out
            for option in options:
                assert option in known, command


def subcommand(arguments: str) -> list[str]:
    """The words before the first option, such as `make` in `serving.edge.keys make --days 30`."""
    words = arguments.split("--")[0].split()
    return [word for word in words if re.fullmatch(r"[a-z]+", word)]


@each_document
def test_every_relative_link_resolves(document: Path) -> None:
    for link in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_commands_are_found_in_the_readme() -> None:
    # The tests above find commands by their form. If the form changed, they would find none and pass.
    found = " ".join(commands(ROOT / "README.md"))

    assert "make demo" in found
    assert "make test" in found
    assert "python -m" in found


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = set(re.findall(r"^  - .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))

    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_make_help_describes_every_target() -> None:
    phony = set(re.findall(r"^\.PHONY: ([a-z-]+)$", makefile(), re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.* ## \S", makefile(), re.MULTILINE))

    assert phony == described
    assert {"demo", "test", "bench", "ui", "stop"} <= phony
