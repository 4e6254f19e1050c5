"""Containers that take a board by its name: Podman and the specification that pcibind hands over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress
from tests.system.binder import Binder, path

pytestmark = pytest.mark.soak

IMAGE = """\
set -eu
root=$(mktemp -d)
for file in /usr/bin/find $(ldd /usr/bin/find | grep -o '/[^ )]*'); do
  mkdir -p "$root${file%/*}"
  cp -L "$file" "$root$file"
done
tar -C "$root" -c . | podman import --quiet - localhost/look >/dev/null
rm -r "$root"
"""
"""An image with nothing but find, made of the machine's own: there is no registry."""

RUN = "podman run --rm --network=none {devices} localhost/look /usr/bin/find /dev/vfio /dev/iommu -type c"


@pytest.fixture(scope="module")
def binder(say: Progress) -> Iterator[Binder]:
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        machine.ssh("cat >/etc/pcibind/boards.toml", stdin=f'[[board]]\nname = "left"\npath = "{path(4)}"\n')
        assert binder.run("add " + next(iter(binder.board(5)))).code == 0
        assert binder.run("apply").code == 0
        machine.ssh("sh", stdin=IMAGE, timeout=300)
        yield binder


def inside(binder: Binder, *names: str) -> set[str]:
    """The VFIO devices that a container has which asks for these boards."""
    devices = " ".join(f"--device pcibind.internal/board={name}" for name in names)
    return set(binder.machine.ssh(RUN.format(devices=devices), check=False, timeout=180).stdout.split())


def group(binder: Binder, slot: int) -> str:
    return next(f"/dev/vfio/{each.group}" for each in binder.board(slot).values())


def test_a_container_gets_the_board_that_it_names_and_no_other(binder: Binder) -> None:
    assert inside(binder, "left") == {"/dev/vfio/vfio", group(binder, 4)}


def test_an_added_board_has_its_path_for_a_name(binder: Binder) -> None:
    name = path(5).replace("/", "-")
    assert inside(binder, name) == {"/dev/vfio/vfio", group(binder, 5)}


def test_two_boards_or_all_of_them_can_be_asked_for(binder: Binder) -> None:
    both = {"/dev/vfio/vfio", group(binder, 4), group(binder, 5)}
    assert inside(binder, "left", path(5).replace("/", "-")) == both
    assert inside(binder, "all") == both


def test_a_board_that_was_released_cannot_be_asked_for(binder: Binder) -> None:
    binder.machine.ssh("pcibind release left")
    refused = binder.machine.ssh(RUN.format(devices="--device pcibind.internal/board=left"), check=False, timeout=180)
    assert refused.returncode != 0
    assert "pcibind.internal/board=left" in refused.stderr
    assert inside(binder, "all") == {"/dev/vfio/vfio", group(binder, 5)}


def test_the_unit_also_hands_over_to_containers(binder: Binder) -> None:
    machine = binder.machine
    machine.ssh("rm -r /run/cdi && systemctl start pcibind.service")
    assert inside(binder, "all") == {"/dev/vfio/vfio", group(binder, 5)}
