"""The stand-in images say what they are and share the layer that costs most."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.lab.containers import build
from tests.lab.containers.node.stand_in import keys, program

pytestmark = pytest.mark.commands


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    archive = tmp_path / "rootfs.tar"
    archive.write_bytes(b"root filesystem")
    disk = tmp_path / "program.img"
    disk.write_bytes(b"disk of a program")
    (tmp_path / "layout").mkdir()
    build.write_layout(tmp_path / "layout", archive, disk, build.images())
    return tmp_path / "layout"


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def manifests(layout: Path) -> dict[str, dict[str, Any]]:
    index = json.loads((layout / "index.json").read_bytes())
    return {
        each["annotations"][build.REF_NAME]: json.loads(blob(layout, each["digest"])) for each in index["manifests"]
    }


def test_all_images_share_the_root_filesystem(layout: Path) -> None:
    layers = [each["layers"] for each in manifests(layout).values()]
    assert len({each[0]["digest"] for each in layers}) == 1
    assert len({each[1]["digest"] for each in layers}) == 3


def test_each_configuration_lists_its_layers_and_says_that_it_is_a_stand_in(layout: Path) -> None:
    for manifest in manifests(layout).values():
        config = json.loads(blob(layout, manifest["config"]["digest"]))
        assert config["rootfs"]["diff_ids"] == [each["digest"] for each in manifest["layers"]]
        assert config["config"]["Labels"]["stand-in"] == "true"


def test_the_node_image_has_its_program_its_command_and_a_publicly_known_key(layout: Path) -> None:
    manifest = manifests(layout)[build.NODE_IMAGE]
    config = json.loads(blob(layout, manifest["config"]["digest"]))["config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/gevulot"], ["run"])
    assert "User" not in config
    with tarfile.open(fileobj=io.BytesIO(blob(layout, manifest["layers"][1]["digest"]))) as archive:
        assert archive.getmember("gevulot").mode == 0o755
        key = archive.extractfile("var/lib/gevulot/node.key")
        assert key is not None
        assert len(keys.public_key(key.read())) == 130


def test_only_the_node_image_has_the_disk_of_a_program_as_a_layer_of_its_own(layout: Path) -> None:
    assert len(manifests(layout)[build.POSTGRES_IMAGES[16]]["layers"]) == 2
    _, _, last = manifests(layout)[build.NODE_IMAGE]["layers"]
    with tarfile.open(fileobj=io.BytesIO(blob(layout, last["digest"]))) as archive:
        disk = archive.extractfile(str(program.IMAGE).lstrip("/"))
        assert disk is not None
        assert disk.read() == b"disk of a program"


@pytest.mark.parametrize("release", [15, 16])
def test_the_postgres_image_keeps_the_official_one_s_configuration(layout: Path, release: int) -> None:
    manifest = manifests(layout)[build.POSTGRES_IMAGES[release]]
    config = json.loads(blob(layout, manifest["config"]["digest"]))["config"]
    assert config["Cmd"] == ["postgres"]
    assert config["StopSignal"] == "SIGINT"
    assert list(config["Volumes"]) == ["/var/lib/postgresql/data"]
    assert {"PGDATA=/var/lib/postgresql/data", f"PG_MAJOR={release}"} <= set(config["Env"])


def test_postgres_16_lies_in_its_image_with_all_that_it_needs(layout: Path, tmp_path: Path) -> None:
    manifest = manifests(layout)[build.POSTGRES_IMAGES[16]]
    with tarfile.open(fileobj=io.BytesIO(blob(layout, manifest["layers"][1]["digest"]))) as archive:
        archive.extractall(tmp_path / "image", filter="tar")
    programs = tmp_path / "image/usr/lib/postgresql/16"
    for name in ("bin/postgres", "bin/initdb", "clients/psql", "clients/pg_dump"):
        done = subprocess.run([programs / name, "--version"], capture_output=True, text=True, check=True)
        assert "(PostgreSQL) 16." in done.stdout
    assert "exec /usr/lib/postgresql/16/clients/psql" in (programs / "bin/psql").read_text()
    sample = programs / "share/postgresql/postgresql.conf.sample"
    lines = {line.partition("#")[0].strip() for line in sample.read_text().splitlines()}
    assert {"listen_addresses = '*'", "unix_socket_directories = '/var/run/postgresql'"} <= lines


def test_the_same_recipe_gives_the_same_name() -> None:
    assert build.recipe() == build.recipe()
    assert len(build.recipe_of_rootfs()) == 12


def test_a_layout_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    there = tmp_path / "containers" / build.recipe()
    there.mkdir(parents=True)
    (there / "index.json").write_text("{}")
    progress: list[str] = []
    assert build.ensure(tmp_path, progress.append) == there
    assert progress == []


def test_a_build_that_fails_says_why_and_leaves_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "mmdebstrap").write_text("#!/bin/sh\necho 'E: no mirror' >&2\nexit 7\n")
    (tools / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    cache = tmp_path / "cache"
    with pytest.raises(build.BuildError, match=r"mmdebstrap ended with 7:\nE: no mirror"):
        build.ensure(cache, lambda _: None)
    assert [each.name for each in (cache / "containers").iterdir() if each.suffix != ".lock"] == []


@pytest.mark.parametrize(
    "script", ["postgres/docker-entrypoint.sh", "rootfs/finish.sh", "program/init", "program/loader.sh"]
)
def test_the_scripts_parse(script: str) -> None:
    path = build.HERE / script
    shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
    subprocess.run([shell, "-n", str(path)], check=True)
