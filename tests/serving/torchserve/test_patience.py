"""TorchServe's frontend waits in microseconds: one constant of one class, and nothing else, is another."""

from __future__ import annotations

import json
import os
import time
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from serving import package, server
from serving.settings import Settings
from serving.torchserve import patience
from serving.torchserve.client import TorchServe

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds


@pytest.fixture(scope="module")
def installed() -> Path:
    spec = find_spec("ts")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def own_class(installed: Path) -> bytes:
    with ZipFile(installed / "frontend" / "model-server.jar") as jar:
        return jar.read(patience.CLASS)


def test_only_the_unit_of_the_wait_differs(installed: Path, tmp_path: Path) -> None:
    first, jars = patience.class_path(installed, tmp_path).split(os.pathsep)

    own, ours = own_class(installed), (Path(first) / patience.CLASS).read_bytes()
    differing = [at for at, (a, b) in enumerate(zip(own, ours, strict=True)) if a != b]
    start = own.index(patience.COARSE)
    assert own.count(patience.COARSE) == 1
    assert differing
    assert set(differing) <= set(range(start, start + len(patience.COARSE)))
    assert ours[start : start + len(patience.FINE)] == patience.FINE
    assert jars == str(installed / "frontend" / "*")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["Model.class"]


def test_another_build_of_the_class_is_left_alone(tmp_path: Path) -> None:
    jar = tmp_path / "ts" / "frontend" / "model-server.jar"
    jar.parent.mkdir(parents=True)
    with ZipFile(jar, "w") as archive:
        archive.writestr(patience.CLASS, b"MILLISECONDS for more than one thing")

    found = patience.class_path(tmp_path / "ts", tmp_path / "home")

    assert found == str(jar.parent / "*")
    assert patience.stated(50, False, ["java", "-cp", found, "Main"]) == 1
    assert patience.stated(0, False, ["java", "-cp", found, "Main"]) == 0
    assert patience.stated(2001, False, ["java", "-cp", found, "Main"]) == 3


@pytest.mark.parametrize("jar", [None, b"no zip"])
def test_a_jar_that_cannot_be_read_is_for_java_to_complain_of(jar: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "frontend").mkdir()
    if jar is not None:
        (tmp_path / "frontend" / "model-server.jar").write_bytes(jar)

    assert patience.class_path(tmp_path, tmp_path / "home") == str(tmp_path / "frontend" / "*")


def test_a_delay_is_stated_in_microseconds_to_a_frontend_that_waits_so(installed: Path, tmp_path: Path) -> None:
    line = ["java", "-cp", patience.class_path(installed, tmp_path), "Main"]

    assert patience.stated(300, True, line) == 300
    assert patience.stated(None, False, line) == patience.SHORT_US
    assert patience.stated(None, True, line) == patience.LONG_US


def test_nothing_is_known_of_a_frontend_that_does_not_run(tmp_path: Path) -> None:
    assert server.batch_delay(Settings(server_home=tmp_path, batch_delay_us=50), indexed=False) == 1


def test_a_lone_request_waits_for_as_long_as_is_stated(live: Settings, artifacts: dict[int, Path]) -> None:
    package.build(artifacts[1], live.model_store / "patient.mar", "patient", "1.0")
    settings = live.model_copy(update={"batch_delay_us": 300_000})
    with TorchServe.of(live) as client:
        client.register("patient.mar", "patient", batch_size=2, batch_delay=server.batch_delay(settings, indexed=False))
        try:
            client.predict("patient", {"k": 1})
            begun = time.perf_counter()
            client.predict("patient", {"k": 1})
            waited = time.perf_counter() - begun
        finally:
            client.unregister("patient", "1.0")

    assert 0.3 <= waited < 60  # 300 s, were they milliseconds


@pytest.mark.parametrize(
    ("about", "indexed"), [({"index": {"kind": "faiss"}}, True), ({"index": {"kind": "exact"}}, False), ({}, False)]
)
def test_an_archive_tells_whether_its_batches_are_dear(about: dict, indexed: bool, tmp_path: Path) -> None:
    with ZipFile(tmp_path / "one.mar", "w") as archive:
        archive.writestr("artifact/manifest.json", json.dumps(about))

    assert package.is_indexed(tmp_path / "one.mar") == indexed


def test_what_is_no_archive_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "one.mar").write_bytes(b"no zip")

    with pytest.raises(package.PackageError, match="is not a Tidegate archive"):
        package.is_indexed(tmp_path / "one.mar")
