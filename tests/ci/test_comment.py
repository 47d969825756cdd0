"""The comment with a verdict: the artifact is untrusted, and only the newest commit of an open pull request gets one."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci/comment.py"


@pytest.fixture(scope="module")
def comment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("comment", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def zipped(text: str | bytes, name: str = "gate.md") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return made.getvalue()


def test_a_verdict_is_shown_as_plain_text(comment: ModuleType) -> None:
    assert comment.verdict(zipped("## PROMOTE\n\n| a | b |\n")) == "<pre>\n## PROMOTE\n\n| a | b |\n\n</pre>"


@pytest.mark.parametrize("attack", ["</pre><img src=x>", "<script>", "&lt;/pre&gt;", "</PRE >\n\n# free"])
def test_a_verdict_cannot_leave_the_text(comment: ModuleType, attack: str) -> None:
    shown = comment.verdict(zipped(attack))

    inside = shown.removeprefix("<pre>\n").removesuffix("\n</pre>")
    assert "<" not in inside
    assert ">" not in inside
    assert inside.count("&") == attack.count("&") + attack.count("<") + attack.count(">")


def test_control_characters_and_text_that_turns_around_are_replaced(comment: ModuleType) -> None:
    shown = comment.verdict(zipped("a\x1b[2J\u202eb\x00\nÿ"))

    assert shown == "<pre>\na\ufffd[2J\ufffdb\ufffd\nÿ\n</pre>"
    assert comment.verdict(zipped(b"\xff\xfe")) == "<pre>\n\ufffd\ufffd\n</pre>"


def test_a_long_verdict_is_cut_below_the_limit_of_a_comment(comment: ModuleType) -> None:
    shown = comment.verdict(zipped("&" * 100_000_000))  # 100 kB when compressed

    assert shown.endswith(" ... (cut)\n</pre>")
    assert len(shown) < 65_000


@pytest.mark.parametrize("archive", [None, b"", b"not a zip", zipped("x", "../gate.md"), zipped("x", "gate.html")])
def test_an_artifact_without_a_verdict_is_said(comment: ModuleType, archive: bytes | None) -> None:
    assert comment.verdict(archive) == "The evaluation left no verdict."


GH = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
line = " ".join(sys.argv[1:])
with (here / "calls").open("a") as calls:
    calls.write(line + "\\n")
if line.startswith("pr comment"):
    (here / "body").write_bytes(sys.stdin.buffer.read())
elif line.endswith("/artifacts"):
    print((here / "artifacts.json").read_text())
elif line.endswith("/zip"):
    sys.stdout.buffer.write((here / "gate.zip").read_bytes())
else:
    print((here / "pulls.json").read_text())
"""
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def github(tmp_path: Path) -> Path:
    """A folder with a `gh` that records its calls and answers from files."""
    (tmp_path / "gh").write_text(GH, encoding="utf-8")
    (tmp_path / "gh").chmod(0o755)
    answers = {
        "pulls.json": [{"number": 7, "head": {"sha": SHA}}],
        "artifacts.json": {
            "artifacts": [
                {"id": 3, "name": "gate", "size_in_bytes": 100},
                {"id": 4, "name": "gate", "size_in_bytes": 100},
                {"id": 5, "name": "other", "size_in_bytes": 100},
            ]
        },
    }
    for name, answer in answers.items():
        (tmp_path / name).write_text(json.dumps(answer), encoding="utf-8")
    (tmp_path / "gate.zip").write_bytes(zipped("## HOLD"))
    return tmp_path


def run(github: Path) -> tuple[str, list[str]]:
    """What it prints, and its calls of `gh`."""
    variables = {
        "PATH": f"{github}:{os.environ['PATH']}",
        "GITHUB_REPOSITORY": "our/repository",
        "GITHUB_SERVER_URL": "https://server",
        "RUN_ID": "11",
        "CONCLUSION": "success",
        "HEAD_SHA": SHA,
        "HEAD": "someone:feature&state=all; exit",
    }
    done = subprocess.run([sys.executable, SCRIPT], env=variables, capture_output=True, encoding="utf-8", check=True)
    return done.stdout, (github / "calls").read_text(encoding="utf-8").splitlines()


def test_the_verdict_is_commented_on_the_pull_request_of_the_run(github: Path) -> None:
    _, calls = run(github)

    assert calls == [
        "api --method GET repos/our/repository/pulls -f state=open -f head=someone:feature&state=all; exit",
        "api repos/our/repository/actions/runs/11/artifacts",
        "api repos/our/repository/actions/artifacts/4/zip",
        "pr comment 7 --repo our/repository --edit-last --create-if-none --body-file -",
    ]
    body = (github / "body").read_text(encoding="utf-8")
    assert body.startswith("**[Evaluation](https://server/our/repository/actions/runs/11) of 0123456789ab: success.**")
    assert body.endswith("\n\n<pre>\n## HOLD\n</pre>\n")


def test_a_commit_that_is_no_longer_the_newest_gets_no_comment(github: Path) -> None:
    (github / "pulls.json").write_text(json.dumps([{"number": 7, "head": {"sha": "f" * 40}}]), encoding="utf-8")

    printed, calls = run(github)

    assert "no open pull request" in printed
    assert len(calls) == 1


def test_an_artifact_over_the_limit_is_not_downloaded(github: Path) -> None:
    large = {"artifacts": [{"id": 3, "name": "gate", "size_in_bytes": 5_000_000}]}
    (github / "artifacts.json").write_text(json.dumps(large), encoding="utf-8")

    _, calls = run(github)

    assert not any(call.endswith("/zip") for call in calls)
    assert "left no verdict" in (github / "body").read_text(encoding="utf-8")
