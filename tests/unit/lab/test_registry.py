"""The lab's registry gives a pulling client what the distribution specification promises."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.containers import build, registry

NODE = "stand-in/gevulot-node"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("registry")
    archive = directory / "rootfs.tar"
    # More than a socket's buffer and than one chunk, so that a short write would show.
    archive.write_bytes(bytes(range(256)) * 20_000)
    (directory / "layout").mkdir()
    disk = directory / "program.img"
    disk.write_bytes(b"disk")
    build.write_layout(directory / "layout", archive, disk, build.images())
    return directory / "layout"


@pytest.fixture(scope="module")
def address(layout: Path) -> Iterator[tuple[str, int]]:
    command = [sys.executable, registry.__file__, str(layout), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rstrip(")\n").rpartition(",")[2])
        yield "127.0.0.1", port
        server.kill()


def manifest_of(layout: Path, reference: str) -> dict[str, Any]:
    given = registry.answer(str(layout), "GET", f"/v2/{NODE}/manifests/{reference}")
    assert given.file is not None
    content: dict[str, Any] = json.loads(Path(given.file[0]).read_bytes())
    return content


def test_says_that_it_speaks_version_two(layout: Path) -> None:
    assert registry.answer(str(layout), "GET", "/v2/").status == 200


def test_a_tag_and_its_digest_give_the_same_manifest_with_its_type_and_digest(layout: Path) -> None:
    by_tag = registry.answer(str(layout), "GET", f"/v2/{NODE}/manifests/latest")
    by_digest = registry.answer(str(layout), "GET", f"/v2/{NODE}/manifests/{by_tag.digest}")
    assert by_tag == by_digest
    assert by_tag.content_type == build.MANIFEST
    assert by_tag.file is not None
    content = Path(by_tag.file[0]).read_bytes()
    assert by_tag.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_every_blob_that_a_manifest_names_is_there_with_the_size_it_names(layout: Path) -> None:
    manifest = manifest_of(layout, "latest")
    for descriptor in [manifest["config"], *manifest["layers"]]:
        given = registry.answer(str(layout), "HEAD", f"/v2/{NODE}/blobs/{descriptor['digest']}")
        assert given.file is not None
        assert given.file[1] == descriptor["size"]
        assert given.digest == descriptor["digest"]


def test_lists_the_tags_of_a_name(layout: Path) -> None:
    given = registry.answer(str(layout), "GET", "/v2/stand-in/postgres/tags/list?n=5")
    assert json.loads(given.body) == {"name": "stand-in/postgres", "tags": ["15", "16"]}


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/nobody/manifests/latest", 404, "NAME_UNKNOWN"),
        ("GET", f"/v2/{NODE}/manifests/1.0", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/{NODE}/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
        ("GET", f"/v2/{NODE}/blobs/sha256:..", 400, "DIGEST_INVALID"),
        ("GET", f"/v2/{NODE}/blobs/..%2f..%2findex.json", 400, "DIGEST_INVALID"),
        ("PUT", f"/v2/{NODE}/manifests/latest", 405, "UNSUPPORTED"),
    ],
)
def test_refuses_with_the_specification_s_codes(layout: Path, method: str, target: str, status: int, code: str) -> None:
    given = registry.answer(str(layout), method, target)
    assert given.status == status
    assert json.loads(given.body)["errors"][0]["code"] == code


def test_a_connection_is_kept_and_a_large_blob_arrives_whole(address: tuple[str, int], layout: Path) -> None:
    large = manifest_of(layout, "latest")["layers"][0]
    client = http.client.HTTPConnection(*address, timeout=10)
    for _ in range(2):
        client.request("GET", f"/v2/{NODE}/blobs/{large['digest']}")
        content = client.getresponse().read()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == large["digest"]
    client.request("HEAD", f"/v2/{NODE}/manifests/latest")
    response = client.getresponse()
    assert response.read() == b""
    assert response.headers["Docker-Content-Digest"].startswith("sha256:")
    assert response.headers["Content-Type"] == build.MANIFEST
    client.close()


def test_standard_streams_serve_one_connection_until_its_end(layout: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    large = manifest_of(layout, "latest")["layers"][0]
    with ours:
        # As QEMU starts it: one socket for all three standard streams.
        command = [sys.executable, "-IS", registry.__file__, str(layout)]
        with theirs:
            pipe = theirs.fileno()
            server = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        ours.settimeout(10)
        for target in ("/v2/", f"/v2/{NODE}/blobs/{large['digest']}"):
            ours.sendall(f"GET {target} HTTP/1.1\r\nHost: registry.lab:5000\r\n\r\n".encode())
            response = http.client.HTTPResponse(ours)
            response.begin()
            assert response.status == 200
            content = response.read()
        assert len(content) == large["size"]
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(1) == b""
        assert server.wait(timeout=10) == 0


@pytest.mark.parametrize("nonsense", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n"])
def test_nonsense_ends_the_connection_with_bad_request(layout: Path, nonsense: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-IS", registry.__file__, str(layout)],
        input=nonsense,
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(b"HTTP/1.1 400 ")


def test_a_client_that_tries_tls_first_is_turned_away_at_once(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
