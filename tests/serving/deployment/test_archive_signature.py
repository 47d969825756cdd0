"""An archive is stored only if a trusted key signed exactly its bytes, for an artifact that the gate or an override lets serve."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from functools import partial
from pathlib import Path

import pytest
import signing
from signed_archives import TRUSTED, signed_archive
from signing import GATE_SEED, OPERATOR_SEED, STRANGER_SEED

from serving.artifact.archive import PackageError, build_archive
from serving.deployment.archive_signature import signer, store_verified
from serving.deployment.errors import SignatureError


@pytest.fixture(autouse=True)
def _serving_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public keys alone."""
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", TRUSTED)
    for role in ("GATE", "OPERATOR"):
        monkeypatch.delenv(f"TIDEGATE_{role}_KEY")


@pytest.fixture
def archive(artifacts: dict[int, Path], tmp_path: Path) -> Path:
    """A signed archive of another machine."""
    return signed_archive(artifacts[1], tmp_path / "tiny-3.0.mar", "tiny", "3.0").path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "models"


def refused(path: Path, store: Path, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as raised:
        store_verified(path, store)
    assert len(str(raised.value).splitlines()) == 1
    assert not store.exists() or not list(store.iterdir())


@pytest.mark.parametrize("seed", [GATE_SEED, OPERATOR_SEED])
def test_an_archive_signed_by_a_trusted_key_is_stored_as_it_is(artifacts, tmp_path: Path, store: Path, seed) -> None:
    built = signed_archive(artifacts[1], tmp_path / "any name.mar", "tiny", "3.0", seed)
    stored = store_verified(built.path, store)
    assert stored.path == store / "tiny-3.0.mar"
    assert stored.path.read_bytes() == built.path.read_bytes()
    assert (stored.content, stored.artifact) == (built.content, built.artifact)
    assert store_verified(stored.path, store) == stored  # again, from the store


def test_an_override_lets_an_archive_serve(artifacts, tmp_path: Path, store: Path) -> None:
    artifact = build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0").artifact
    override = signing.signed(OPERATOR_SEED, "override", {"dataset": "tiny", "artifact": artifact})
    sign = signer(override, partial(signing.signed, OPERATOR_SEED))
    build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0", sign=sign)
    assert store_verified(tmp_path / "a.mar", store)


def test_an_archive_without_a_signature_is_refused(artifacts, tmp_path: Path, store: Path) -> None:
    build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0")
    refused(tmp_path / "a.mar", store, SignatureError, "a.mar is not signed; install an archive that")


def test_an_archive_of_an_unknown_key_is_refused(artifacts, tmp_path: Path, store: Path) -> None:
    signed_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0", STRANGER_SEED)
    refused(tmp_path / "a.mar", store, SignatureError, "a.mar was signed by the key .*; TIDEGATE_TRUSTED_KEYS trusts")


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ({"artifact": "0" * 32}, "what lets it serve is of tiny, another artifact"),
        ({"dataset": "other"}, "what lets it serve is of other, another artifact"),
        ({"verdict": "HOLD"}, "its gate report says HOLD, not PROMOTE"),
    ],
)
def test_a_statement_that_does_not_let_the_artifact_serve_is_refused(
    artifacts, tmp_path: Path, store: Path, stated: dict, problem: str
) -> None:
    signed_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0", stated=stated)
    refused(tmp_path / "a.mar", store, SignatureError, problem)


def test_a_statement_that_an_operator_signed_as_the_gate_is_refused(artifacts, tmp_path: Path, store: Path) -> None:
    artifact = build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0").artifact
    stated = {"verdict": "PROMOTE", "dataset": "tiny", "artifact": artifact}
    forged = signing.signed(OPERATOR_SEED, "gate report", stated)
    sign = signer(forged, partial(signing.signed, OPERATOR_SEED))
    build_archive(artifacts[1], tmp_path / "a.mar", "tiny", "3.0", sign=sign)
    refused(tmp_path / "a.mar", store, SignatureError, "what lets it serve was signed by the operator key")


def test_no_changed_byte_is_accepted(archive: Path, tmp_path: Path, store: Path) -> None:
    whole, changed = archive.read_bytes(), tmp_path / "changed.mar"
    code = whole.index(b"class TidegateHandler")
    for position in [code, 0, 4, 10, len(whole) - 1, *range(7, len(whole), len(whole) // 150)]:
        content = bytearray(whole)
        content[position] ^= 1
        changed.write_bytes(content)
        refused(changed, store, (PackageError, SignatureError), ".")
    for content in (whole[:-1], whole + b"\0", b"\0" + whole):
        changed.write_bytes(content)
        refused(changed, store, (PackageError, SignatureError), ".")


def rewritten(archive: Path, target: Path, changes: dict[str, bytes]) -> Path:
    """A copy with other or additional entries, as a valid zip."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info, changes.pop(info.filename, old.read(info)))
        for name, content in changes.items():
            new.writestr(name, content)
    return target


@pytest.mark.parametrize("name", ["tidegate_handler.py", "serving/worker/handler.py", "artifact/weights.safetensors"])
def test_other_content_under_the_old_signature_is_refused(
    archive: Path, tmp_path: Path, store: Path, name: str
) -> None:
    path = rewritten(archive, tmp_path / "changed.mar", {name: b"import os"})
    refused(path, store, PackageError, "changed.mar was changed after it was built; copy it again")


def test_additional_code_is_refused(archive: Path, tmp_path: Path, store: Path) -> None:
    refused(rewritten(archive, tmp_path / "a.mar", {"torch.py": b"import os"}), store, PackageError, "was changed")
    refused(rewritten(archive, tmp_path / "a.mar", {"MAR-INF/x": b""}), store, PackageError, "was changed")


def test_another_version_name_or_hash_in_the_manifest_is_refused(archive: Path, tmp_path: Path, store: Path) -> None:
    with zipfile.ZipFile(archive) as mar:
        manifest = json.loads(mar.read("MAR-INF/MANIFEST.json"))
    manifest["model"]["modelVersion"] = "../../4.0"
    path = rewritten(archive, tmp_path / "a.mar", {"MAR-INF/MANIFEST.json": json.dumps(manifest).encode()})
    refused(path, store, SignatureError, "carries the signature of another archive")
    assert not list(tmp_path.parent.glob("*4.0*"))


def test_the_signature_of_another_archive_is_refused(artifacts, archive: Path, tmp_path: Path, store: Path) -> None:
    other = signed_archive(artifacts[2], tmp_path / "other.mar", "tiny", "3.0").signature
    path = rewritten(archive, tmp_path / "a.mar", {"MAR-INF/SIGNATURE.json": str(other).encode()})
    refused(path, store, SignatureError, "carries the signature of another archive")
    for text in (b"{}", b"[]", b"\xff", b'{"archive": {}, "justification": 1}'):
        path = rewritten(archive, tmp_path / "a.mar", {"MAR-INF/SIGNATURE.json": text})
        refused(path, store, SignatureError, "carries no signature")


def test_a_refused_archive_leaves_the_stored_one(archive: Path, tmp_path: Path, store: Path) -> None:
    stored = store_verified(archive, store).path
    before = stored.read_bytes()
    broken = rewritten(archive, tmp_path / "a.mar", {"tidegate_handler.py": b"import os"})
    with pytest.raises(PackageError):
        store_verified(broken, store)
    shutil.copyfile(broken, stored)  # damaged in the store
    with pytest.raises(PackageError):
        store_verified(stored, store)
    assert stored.read_bytes() != before
    assert os.listdir(store) == [stored.name]
