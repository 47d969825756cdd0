"""What docs/torchserve-security.md says of TorchServe's jar."""

from __future__ import annotations

import re
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

NETTY = re.compile(rb"io/netty/handler/[a-z0-9/]*(?=/[A-Z])")
USED = {
    b"io/netty/handler/codec",
    b"io/netty/handler/codec/http",
    b"io/netty/handler/codec/http/multipart",
    b"io/netty/handler/ssl",
    b"io/netty/handler/ssl/util",
}
COMPRESSION = re.compile(rb"HttpContentDecompressor|HttpContentDecoder|JdkZlibDecoder|SniHandler")


@pytest.fixture(scope="module")
def jar() -> zipfile.ZipFile:
    spec = find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torchserve is not installed")
    return zipfile.ZipFile(Path(next(iter(spec.submodule_search_locations))) / "frontend" / "model-server.jar")


def test_torchserves_own_classes_use_no_other_codec_of_netty_than_http_1_forms_and_tls(jar: zipfile.ZipFile) -> None:
    used, decoders = set(), set()
    names = [name for name in jar.namelist() if name.startswith("org/pytorch/serve/") and name.endswith(".class")]
    for name in names:
        code = jar.read(name)
        used |= set(NETTY.findall(code))
        decoders |= set(COMPRESSION.findall(code))

    assert len(names) > 200
    assert used == USED
    assert not decoders


def test_the_jar_holds_the_versions_that_the_page_names(jar: zipfile.ZipFile) -> None:
    text = jar.read("META-INF/io.netty.versions.properties").decode()
    yaml = jar.getinfo("org/yaml/snakeyaml/Yaml.class").date_time[:2]
    grpc = jar.getinfo("io/grpc/netty/shaded/io/netty/handler/codec/http/HttpServerCodec.class").date_time[:2]

    assert "netty-codec-http.version=4.1.53.Final" in text
    assert (yaml, grpc) == ((2023, 8), (2022, 7))
