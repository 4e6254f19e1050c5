"""Builds the lab's container images, without a container engine: two of Postgres, one of the node.

The images are stand-ins: they keep the contract of docker.io/library/postgres and of the
Gevulot node's image where no registry can be reached, and say so in their labels and logs. All
share one layer, the root filesystem of Debian 12's packages: they run on one host, which so pulls
it once. Postgres 15 is Debian 12's; Postgres 16, which no release of Debian has, is that of a
locked Python package. The node's last layer is the disk of a program. `registry.py` beside this
file serves the result.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.lab.cache import holds, locked, unfinished
from tests.lab.containers import postgres16, program_image

SUITE = "bookworm"
HERE = Path(__file__).resolve().parent
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
POSTGRES_IMAGES = {15: "stand-in/postgres:15", 16: "stand-in/postgres:16"}
NODE_IMAGE = "stand-in/gevulot-node:latest"
PROGRAM = "/usr/lib/stand-in/program.img"
REF_NAME = "org.opencontainers.image.ref.name"
# Uncompressed, since the machine that pulls is emulated. Skopeo under QEMU's emulation, 195 MB into
# storage: 9.8 s plain, 12.6 s zstd (73 MB), 19.3 s gzip (76 MB). The content is hashed in any case,
# and reading 120 MB more through the emulated network costs less than unpacking does.
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
# The real node's image runs `generate node-key` while it is built, so everyone knows the key in
# it. Here it is a constant, readable in a dump, so that a test can tell when it is in use.
PUBLICLY_KNOWN_KEY = b"stand-in publicly known node key"

Say = Callable[[str], None]


class BuildError(Exception):
    """The root filesystem could not be built; the message ends with what mmdebstrap said."""


@dataclass(frozen=True)
class Entry:
    """One file of a small layer; the layer's directories follow from the paths."""

    path: str
    content: bytes
    mode: int


@dataclass(frozen=True)
class Image:
    """What one image adds to the shared root filesystem: its files and its configuration."""

    reference: str
    stands_in_for: str
    entries: tuple[Entry, ...]
    config: dict[str, Any] = field(default_factory=dict)
    runs_programs: bool = False


@dataclass(frozen=True)
class Blob:
    """A file of the layout's blob store: its digest (`sha256:…`) and its size in bytes."""

    digest: str
    size: int

    def descriptor(self, media_type: str) -> dict[str, Any]:
        """The OCI descriptor that refers to this blob."""
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


def images() -> tuple[Image, ...]:
    """The images, read from the files beside this one and from the locked package with Postgres 16."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    modules = sorted((HERE / "node/stand_in").glob("*.py"))
    node = Image(
        NODE_IMAGE,
        "quay.io/gevulot/node:latest",
        (
            entry("/gevulot", HERE / "node/gevulot"),
            *(entry(f"/usr/lib/stand-in/stand_in/{module.name}", module) for module in modules),
            Entry("/var/lib/gevulot/node.key", PUBLICLY_KNOWN_KEY, 0o644),
        ),
        {"Env": [f"PATH={path}", "LANG=C.UTF-8"], "Entrypoint": ["/gevulot"], "Cmd": ["run"]},
        runs_programs=True,
    )
    return postgres(15, path, ()), postgres(16, path, postgres16_entries()), node


def postgres16_entries() -> tuple[Entry, ...]:
    """Postgres 16 as it lies in its image. Raises BuildError where its package is not installed."""
    try:
        found = [entry(path, source) for path, source in postgres16.files().items()]
    except FileNotFoundError as error:
        raise BuildError(str(error)) from error
    clients = (
        Entry(f"{postgres16.HOME}/bin/{name}", postgres16.client(name).encode(), 0o755) for name in postgres16.CLIENTS
    )
    return (
        *clients,
        *(
            replace(each, content=as_official(each.content)) if each.path.endswith("/postgresql.conf.sample") else each
            for each in found
        ),
    )


def as_official(sample: bytes) -> bytes:
    """Return the sample of a configuration with the two settings that the official image changes."""
    listening = sample.replace(b"#listen_addresses = 'localhost'", b"listen_addresses = '*'")
    return listening.replace(b"#unix_socket_directories = '/tmp'", b"unix_socket_directories = '/var/run/postgresql'")


def postgres(release: int, path: str, entries: tuple[Entry, ...]) -> Image:
    """The image of a release of Postgres, whose files are in the root filesystem or among the entries."""
    return Image(
        POSTGRES_IMAGES[release],
        f"docker.io/library/postgres:{release}",
        (entry("/usr/local/bin/docker-entrypoint.sh", HERE / "postgres/docker-entrypoint.sh"), *entries),
        {
            "Env": [
                # Before the others: the root filesystem has the clients of 15 in /usr/bin.
                f"PATH=/usr/lib/postgresql/{release}/bin:{path}",
                "LANG=C.UTF-8",
                f"PG_MAJOR={release}",
                "PGDATA=/var/lib/postgresql/data",
            ],
            "Entrypoint": ["docker-entrypoint.sh"],
            "Cmd": ["postgres"],
            "ExposedPorts": {"5432/tcp": {}},
            "Volumes": {"/var/lib/postgresql/data": {}},
            "StopSignal": "SIGINT",
        },
    )


def entry(path: str, source: Path) -> Entry:
    """A file of this directory as it is in the image: executable here, executable there."""
    return Entry(path, source.read_bytes(), 0o755 if os.access(source, os.X_OK) else 0o644)


def recipe_of_rootfs() -> str:
    """Short hash over everything that decides what is in the root filesystem's layer."""
    sources = [HERE / "rootfs/packages", HERE / "rootfs/finish.sh"]
    return short_hash([SUITE.encode(), *(source.read_bytes() for source in sources)])


def recipe() -> str:
    """Short hash over everything that decides what is in the layout."""
    parts = [recipe_of_rootfs().encode(), program_image.recipe().encode(), Path(__file__).read_bytes()]
    for image in images():
        parts.append(json.dumps([image.reference, image.config]).encode())
        parts += [part for each in image.entries for part in (each.path.encode(), each.content)]
    return short_hash(parts)


def short_hash(parts: list[bytes]) -> str:
    """Twelve hexadecimal digits over parts whose borders count."""
    return hashlib.sha256(b"".join(b"%d:" % len(part) + part for part in parts)).hexdigest()[:12]


def ensure(cache: Path, say: Say = print) -> Path:
    """Gives the OCI image layout with both images, built now if the cache does not have it.

    The layout is a directory below `cache`, named by its recipe and never changed once it is
    there; `say` gets a line before each step that takes long. Safe to interrupt: the next build
    removes what is unfinished. Raises BuildError.
    """
    layout = cache / "containers" / recipe()
    if holds(layout):
        return layout
    with locked(layout):
        if holds(layout):
            return layout
        archive = rootfs(cache, say)
        disk = program(cache, say)
        half = unfinished(layout)
        half.mkdir()
        write_layout(half, archive, disk, images())
        half.rename(layout)
    return layout


def rootfs(cache: Path, say: Say) -> Path:
    """The root filesystem as a tar archive in the cache, built with mmdebstrap when not there."""
    archive = cache / "containers" / f"rootfs-{recipe_of_rootfs()}.tar"
    with locked(archive):
        if not holds(archive):
            build_rootfs(unfinished(archive), say).rename(archive)
    return archive


def program(cache: Path, say: Say) -> Path:
    """The disk of a program as it is in the cache, built when not there. Raises BuildError."""
    disk = cache / "containers" / f"program-{program_image.recipe()}.img"
    if not holds(disk):
        say("container images: building the disk of a program (about 30 s) …")
    try:
        return program_image.ensure(disk)
    except program_image.ProgramImageError as error:
        raise BuildError(str(error)) from None


def build_rootfs(archive: Path, say: Say) -> Path:
    """Builds the root filesystem's archive at a path, and gives the path. Raises BuildError."""
    say("container images: unpacking Debian 12's Postgres, QEMU and Python (about 20 s) …")
    started = time.monotonic()
    packages = ",".join((HERE / "rootfs/packages").read_text().split())
    # "extract" runs no maintainer script: quick, and small without dpkg and apt. Device nodes are
    # the container engine's to make, and one in a layer would stop an unprivileged pull.
    command = [
        "mmdebstrap",
        "--variant=extract",
        "--components=main",
        "--skip=output/dev",
        f"--hook-dir={MERGED_USR}",
        f"--include={packages}",
        f"--extract-hook={HERE / 'rootfs/finish.sh'}",
        "--format=tar",
        SUITE,
        str(archive),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError("mmdebstrap is not installed: install the lab's host packages") from error
    if done.returncode != 0:
        archive.unlink(missing_ok=True)
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise BuildError(f"mmdebstrap ended with {done.returncode}:\n{tail}")
    size = archive.stat().st_size / 1e6
    say(f"container images: {size:.0f} MB in {time.monotonic() - started:.0f} s")
    return archive


def write_layout(layout: Path, archive: Path, program: Path, contents: tuple[Image, ...]) -> None:
    """Writes the OCI image layout of the images over the root filesystem's archive, with the disk of a program."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    shared = link_blob(blobs, archive)
    manifests = []
    for image in contents:
        layers = [shared, add_blob(blobs, layer(image.entries))]
        if image.runs_programs:
            # A layer of its own: the node's modules change more often.
            layers.append(add_blob(blobs, layer((Entry(PROGRAM, program.read_bytes(), 0o644),))))
        # An uncompressed layer's digest is that of its content, which the configuration lists.
        config = add_blob(blobs, encode(configuration(image, [each.digest for each in layers])))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [each.descriptor(LAYER) for each in layers],
        }
        descriptor = add_blob(blobs, encode(manifest)).descriptor(MANIFEST)
        manifests.append(descriptor | {"annotations": {REF_NAME: image.reference}})
    (layout / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    (layout / "index.json").write_bytes(encode(index))


def configuration(image: Image, layers: list[str]) -> dict[str, Any]:
    """The OCI image configuration, whose labels say that the image is a stand-in."""
    labels = {
        "stand-in": "true",
        "stand-in.for": image.stands_in_for,
        "org.opencontainers.image.title": image.reference,
        "org.opencontainers.image.description": (
            f"Stand-in for {image.stands_in_for}, for tests only: not the real image"
        ),
    }
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": image.config | {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": [
            {"created_by": f"Debian 12 packages ({SUITE})"},
            *({"created_by": f"stand-in for {image.stands_in_for}"} for _ in layers[1:]),
        ],
    }


def layer(entries: tuple[Entry, ...]) -> bytes:
    """A tar archive of the entries, the same bytes for the same entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        # The mount point that the root filesystem's archive leaves out with its device nodes.
        mount_point = tarfile.TarInfo("dev")
        mount_point.type, mount_point.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(mount_point)
        for each in sorted(entries, key=lambda each: each.path):
            member = tarfile.TarInfo(each.path.lstrip("/"))
            member.size, member.mode = len(each.content), each.mode
            archive.addfile(member, io.BytesIO(each.content))
    return buffer.getvalue()


def encode(value: dict[str, Any]) -> bytes:
    """JSON as it is stored: stable, so that equal content has an equal digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def add_blob(blobs: Path, content: bytes) -> Blob:
    """Stores the content under its digest."""
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return Blob(f"sha256:{digest}", len(content))


def link_blob(blobs: Path, source: Path) -> Blob:
    """Stores a large file under its digest, as a hard link: it costs no second copy."""
    with source.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    os.link(source, blobs / digest)
    return Blob(f"sha256:{digest}", source.stat().st_size)


if __name__ == "__main__":
    print(ensure(Path(sys.argv[1])))
