"""The preparation: what is done to the bare image's disk, once, before machines start from it."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import cache, disk, record
from tests.lab.host import VirtualHost
from tests.lab.image import Image
from tests.lab.progress import Progress, silent, step
from tests.lab.qemu import Hardware
from tests.lab.topology import Topology


@dataclass(frozen=True)
class Preparation:
    """A shell script that runs once in the guest as root, without a network; its effect is on the disk.

    The machine is off between the script and the next use of the disk. `name` is part of file names.
    """

    name: str
    script: str

    @property
    def key(self) -> str:
        """Return a text that no other preparation has."""
        return f"{self.name}\n{self.script}"


BARE = Preparation("bare", "")
"""Nothing: a Debian host as it is installed, its IOMMU off."""

IOMMU = Preparation(
    "iommu",
    """\
set -eu
sed -i 's/intel_iommu=off/intel_iommu=on iommu=pt/' /etc/default/grub /boot/grub/grub.cfg
apt-get -q install --yes --no-download python3-click python3-pyudev
""",
)
"""What pcibind needs of a host, and nothing else: the IOMMU on at every boot, and the Python packages.

Neither is vfio-pci loaded nor anything of pcibind there.
"""


def put(image: Image, hardware: Hardware, preparation: Preparation, target: Path, progress: Progress = silent) -> None:
    """Make a prepared disk for one machine, at `target`: a layer of its own over the image.

    Raises MachineError, or CalledProcessError when the script fails.
    """
    if preparation == BARE:
        disk.overlay(image.disk, target)
    else:
        disk.copy(ensure(image, hardware, preparation, progress), target)


def ensure(image: Image, hardware: Hardware, preparation: Preparation, progress: Progress = silent) -> Path:
    """Return the disk of a machine on which the script has run, made when the cache has none.

    It depends on no topology: it is made on a machine without boards. Raises as `put` does.
    """
    key = cache.digest(image.digest, preparation.key)
    path = cache.directory() / "prepared" / f"{preparation.name}-{key}.qcow2"
    with cache.locked(path):
        if cache.holds(path):
            return path
        bare = replace(hardware, topology=Topology("no-boards", ()))
        host = VirtualHost(record.fresh(f"prepared-{preparation.name}"), bare)
        minutes = "about a minute" if hardware.accelerator.emulated else "about 20 seconds"
        with step(progress, f"preparing a disk: {preparation.name}", takes=minutes), host.made():
            disk.overlay(image.disk, host.disk)
            host.launch([(0, 22)])
            host.wait()
            host.wait_running()
            host.ssh(preparation.script)
            host.shutdown()
            os.rename(host.disk, path)
            shutil.rmtree(host.directory, ignore_errors=True)
    return path
