"""The early override out of an initramfs that dracut made, as Fedora has it: here with Debian's dracut."""

from __future__ import annotations

import re

import pytest

from deploys.manifest import INITRAMFS_FILES
from facts.initramfs import EARLY, InitramfsContents
from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress, step
from tests.system.binder import Binder

pytestmark = pytest.mark.worlds

LOADED_EARLY = r"(bochs-drm|snd_hda_intel|xhci_hcd).* 0000:0[12]:00\."
"""What the kernel says when the driver of a module takes a function of either board."""

BUILD = """\
set -eu
apt-get -q install --yes --no-download dracut-core >/dev/null
pcibind setup
for version in /lib/modules/*; do
  version=${version##*/}
  dracut --quiet --force --add-drivers 'virtio_pci virtio_blk ext4' "/boot/initrd.img-$version" "$version"
  lsinitrd "/boot/initrd.img-$version"
done
systemctl enable --quiet pcibind.service
sed -i '/^\\tlinux/s/$/ udev.children_max=1/' /boot/grub/grub.cfg
sync
"""


def test_no_driver_of_a_module_touches_a_board_when_dracut_made_the_initramfs(say: Progress) -> None:
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        binder.choose(4, 5)
        assert re.search(LOADED_EARLY, machine.ssh("journalctl -k -b -o cat --no-pager").stdout)
        with step(say, "recording the boards and having dracut make the initramfs", takes="about two minutes"):
            assert binder.run("apply --next-boot").code == 0
            content = machine.ssh(BUILD, timeout=600).stdout
        for path in ("etc/udev/rules.d/05-pcibind.rules", "usr/local/lib/pcibind/early", "etc/pcibind/early.list"):
            assert path in content
        with step(say, "booting out of it", takes="about a minute"):
            machine.reboot()
            machine.wait_running()
        assert "dracut" in machine.ssh("journalctl -b -o cat --no-pager | grep -i dracut | head -n 3").stdout
        # Written there and not on the root: the initramfs did it.
        assert "0000:01:00.0" in machine.ssh("cat /run/pcibind/early.initramfs").stdout
        assert binder.bound() == {4, 5}
        assert not re.search(LOADED_EARLY, machine.ssh("journalctl -k -b -o cat --no-pager").stdout)
        contents = InitramfsContents().process(
            machine.ssh(InitramfsContents().command(INITRAMFS_FILES)).stdout.splitlines()
        )
        assert [set(EARLY) <= set(held) for held in contents.images.values()] == [True]
        assert (contents.differences, contents.unknown) == ((), ())
