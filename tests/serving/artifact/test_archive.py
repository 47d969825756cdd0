"""An archive holds the artifact and exactly the code that the worker needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from config.paths import ROOT
from serving import package
from serving.artifact.archive import (
    INNER_MANIFEST,
    PackageError,
    WorkerCodeError,
    build_archive,
    content_hash,
    read_archive,
    worker_modules,
)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the code that travels, to be broken."""
    root = tmp_path / "sources"
    for path in worker_modules(ROOT).values():
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return root


def test_the_same_artifact_gives_the_same_bytes_at_another_time_and_place(artifacts, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(artifacts[1], elsewhere)
    for path in elsewhere.iterdir():
        os.utime(path, (time.time() - 1e6,) * 2)
        path.chmod(0o600)
    build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0")
    build_archive(elsewhere, tmp_path / "b.mar", "tiny", "3.0")
    assert (tmp_path / "a.mar").read_bytes() == (tmp_path / "b.mar").read_bytes()


def test_an_archive_states_its_model_version_and_artifact(artifacts, tmp_path: Path) -> None:
    from training.models.artifact import digest_of

    built = build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0")
    assert read_archive(tmp_path / "a.mar") == built
    assert (built.name, built.version) == ("tiny", "3.0")
    assert built.artifact == digest_of(json.loads((artifacts[1] / "manifest.json").read_text(encoding="utf-8")))
    with zipfile.ZipFile(tmp_path / "a.mar") as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read(INNER_MANIFEST))["runtime"] == "python"
        assert archive.read("artifact/golden.jsonl") == (artifacts[1] / "golden.jsonl").read_bytes()


def test_content_is_the_same_under_another_version_and_differs_for_another_artifact_or_code(
    artifacts, sources: Path, tmp_path: Path
) -> None:
    first = build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0").content
    assert first == build_archive(artifacts[1], tmp_path / "b.mar", "tiny", "4.0").content == content_hash(artifacts[1])
    assert first == content_hash(artifacts[1], sources)
    assert first != content_hash(artifacts[2])
    handler = sources / "serving" / "worker" / "handler.py"
    handler.write_text(handler.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    assert first != content_hash(artifacts[1], sources)


def test_only_what_the_handler_imports_travels() -> None:
    names = set(worker_modules(ROOT))
    assert {
        "serving.worker.handler",
        "serving.worker.recommender",
        "data.columns",
        "features.encode",
        "serving",
    } <= names
    assert not names & {
        "params",
        "serving.artifact.archive",
        "serving.torchserve.client",
        "data.ingest",
        "features.featurize",
    }


def test_a_package_that_the_worker_lacks_is_refused_at_load_and_allowed_in_a_function(sources: Path) -> None:
    path = sources / "features" / "encode.py"
    clean = path.read_text(encoding="utf-8")
    path.write_text(clean + "\ndef fit():\n    from scipy import sparse\n    return sparse\n", encoding="utf-8")
    worker_modules(sources)
    path.write_text(clean + "\nfrom scipy import sparse\n", encoding="utf-8")
    with pytest.raises(WorkerCodeError, match=r"scipy, which the serving extra of pyproject\.toml does not name"):
        worker_modules(sources)


def test_an_import_for_type_checkers_alone_is_no_import(sources: Path) -> None:
    path = sources / "features" / "encode.py"
    text = (
        path.read_text(encoding="utf-8") + "\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
    )
    path.write_text(text, encoding="utf-8")

    assert "features.encode" in worker_modules(sources)


def test_the_archive_runs_from_its_own_folder_and_loads_no_training_library(artifacts, tmp_path: Path) -> None:
    """In a fresh interpreter, with a decoy `serving` in front, as a careless PYTHONPATH would put it."""
    build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0")
    unpacked, decoy = tmp_path / "unpacked", tmp_path / "decoy"
    zipfile.ZipFile(tmp_path / "a.mar").extractall(unpacked)
    (decoy / "serving").mkdir(parents=True)
    (decoy / "serving" / "__init__.py").write_text("raise ImportError('the decoy was imported')\n", encoding="utf-8")
    script = f"""
import json, sys
sys.path[:0] = [{str(decoy)!r}, {str(unpacked)!r}]
import tidegate_handler
from types import SimpleNamespace as Bag
context = Bag(model_name="tiny", manifest={{"model": {{"modelVersion": "3.0"}}}},
              system_properties={{"model_dir": {str(unpacked)!r}}},
              set_response_status=lambda *a: None, set_response_content_type=lambda *a: None,
              metrics=Bag(add_metric_to_cache=lambda *a: Bag(add_or_update=lambda *a: None)))
handler = tidegate_handler.TidegateHandler()
handler.initialize(context)
answer = json.loads(handler.handle([{{"body": {{"k": 2}}}}], context)[0])
print(json.dumps([len(answer["items"]), sorted(sys.modules), sys.modules["serving.worker.handler"].__file__]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    count, modules, source = json.loads(done.stdout.splitlines()[-1])
    assert count == 2
    assert source == str(unpacked / "serving" / "worker" / "handler.py")
    assert not {name.partition(".")[0] for name in modules} & {
        "implicit",
        "lightning",
        "mlflow",
        "pandas",
        "pyarrow",
        "scipy",
    }


def test_a_corrupt_artifact_is_not_packaged(artifacts, tmp_path: Path) -> None:
    shutil.copytree(artifacts[1], tmp_path / "broken")
    (tmp_path / "broken" / "vocabulary.json").write_text("[]", encoding="utf-8")
    with pytest.raises(PackageError, match=r"vocabulary\.json is not the file that was exported"):
        build_archive(tmp_path / "broken", tmp_path / "a.mar", "tiny")
    assert not list(tmp_path.glob("*.mar*"))


def test_a_failed_build_leaves_the_older_archive_whole(artifacts, tmp_path: Path, monkeypatch) -> None:
    build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "1.0")
    before = (tmp_path / "a.mar").read_bytes()

    def disk_full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", disk_full)
    with pytest.raises(OSError, match="no space"):
        build_archive(artifacts[2], tmp_path / "a.mar", "tiny", "2.0")
    assert (tmp_path / "a.mar").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.mar"]


def test_some_other_zip_is_not_taken_for_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
    with pytest.raises(PackageError, match="is not a Tidegate archive"):
        read_archive(tmp_path / "other.mar")


def test_an_unknown_label_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert package.main(["--model", "nonesuch"]) == 2
    assert capsys.readouterr().err.startswith("error: --model is 'nonesuch'; params.train.models holds ")
