"""A history: what happened to a host before we came. Data, as a platform is; made without a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.lab.guest import File
from tests.lab.host import VirtualHost
from tests.lab.preparation import Preparation


class HistoryError(RuntimeError):
    """No such history, or a machine that does not read as its history says; the text names what was found."""


@dataclass(frozen=True)
class History:
    """Files, then a shell script; both once, as root, in a bare machine that is then switched off.

    `purpose` is the line that `list-worlds` prints. `question` is a command for the booted machine, `answer` a text
    that it then prints: by it the machine, which needs the boards of a topology for it, is known to be what the history
    says.
    """

    name: str
    purpose: str
    question: str
    answer: str
    files: tuple[File, ...] = ()
    script: str = ""
    topology: str = "no-boards"

    @property
    def preparation(self) -> Preparation:
        """Return it as what is done to a machine's disk."""
        written = (
            f"install -D -m {file.mode:o} /dev/stdin {file.path} <<'END_OF_FILE'\n{file.text}END_OF_FILE\n"
            for file in self.files
        )
        return Preparation(f"history-{self.name}", f"set -eu\n{''.join(written)}{self.script}")


_LINE: Final = "cat /proc/cmdline"
_MENU: Final = "update-grub\n"
_OWN_VFIO: Final = File("/etc/modprobe.d/vfio.conf", "# the host's own controller\noptions vfio-pci ids=1000:0072\n")


def _on_the_line(name: str, purpose: str, argument: str) -> History:
    """Return a host on whose kernel line somebody put an argument, by a drop-in that appends."""
    text = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {argument}"\n'
    return History(name, purpose, _LINE, argument, (File("/etc/default/grub.d/local.cfg", text),), _MENU)


HISTORIES: Final[Mapping[str, History]] = {
    history.name: history
    for history in (
        History(
            "grub-drop-in-assigns",
            "a provider's drop-in assigns GRUB_CMDLINE_LINUX_DEFAULT, whatever was there before",
            _LINE,
            "consoleblank=0",
            (File("/etc/default/grub.d/hetzner.cfg", 'GRUB_CMDLINE_LINUX_DEFAULT="consoleblank=0"\n'),),
            _MENU,
        ),
        _on_the_line("amd-iommu-off", "amd_iommu=off on the kernel line", "amd_iommu=off"),
        _on_the_line("no-interrupt-remapping", "intremap=off on the kernel line", "intremap=off"),
        History(
            "own-vfio",
            "vfio-pci.ids on the kernel line and an own vfio.conf, for a controller of the host's",
            "grep -o 'vfio-pci.ids=[0-9:]*' /proc/cmdline; tail -n 1 /etc/modprobe.d/vfio.conf",
            "vfio-pci.ids=1000:0072\noptions vfio-pci ids=1000:0072",
            (
                _OWN_VFIO,
                File(
                    "/etc/default/grub.d/local.cfg",
                    'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX vfio-pci.ids=1000:0072"\n',
                ),
            ),
            _MENU,
        ),
        History(
            "nvidia-conf-of-a-package",
            "a package's /usr/lib/modprobe.d/nvidia.conf, which a file of that name in /etc would hide",
            "modprobe --showconfig | grep nvidia_drm",
            "options nvidia_drm modeset=1",
            (File("/usr/lib/modprobe.d/nvidia.conf", "options nvidia-drm modeset=1\n"),),
        ),
        History(
            "nvidia-conf-is-a-link",
            "/etc/modprobe.d/nvidia.conf is a link of the alternatives system to another package's file",
            "readlink /etc/modprobe.d/nvidia.conf; readlink -f /etc/modprobe.d/nvidia.conf",
            "/etc/alternatives/glx--nvidia-modprobe.conf\n/etc/nvidia/current/nvidia-modprobe.conf",
            (File("/etc/nvidia/current/nvidia-modprobe.conf", "options nvidia-current NVreg_EnableMSI=1\n"),),
            "update-alternatives --quiet --install /etc/modprobe.d/nvidia.conf glx--nvidia-modprobe.conf"
            " /etc/nvidia/current/nvidia-modprobe.conf 100\n",
        ),
        History(
            "driver-of-another-name",
            "a packaged driver of the boards whose name upstream does not have, as Debian's nvidia-current",
            "modprobe --resolve-alias pci:v00001234d00001111sv00001AF4sd00001100bc03sc80i00",
            "nvidia_current",
            script="""\
for modules in /lib/modules/*; do
    name=$(find "$modules" -name 'bochs.ko*' -printf '%P\\n')
    mkdir -p "$modules/updates/dkms"
    cp "$modules/$name" "$modules/updates/dkms/nvidia-current.ko${name#*.ko}"
    depmod "${modules##*/}"
done
""",
        ),
        History(
            "board-in-use",
            "a program of the host has a board's device open, and starts at every boot",
            "timeout 300 sh -c 'until"
            " ls -l /proc/$(systemctl show -P MainPID holder.service)/fd | grep -o /dev/dri/card0; do sleep 1; done'",
            "/dev/dri/card0",
            (
                File(
                    "/etc/systemd/system/holder.service",
                    # A redirection of exec that fails would end the shell.
                    "[Service]\nExecStart=/bin/sh -c 'until [ -e /dev/dri/card0 ]; do sleep 1; done; "
                    "exec sleep inf 3<>/dev/dri/card0'\n"
                    "[Install]\nWantedBy=multi-user.target\n",
                ),
            ),
            "systemctl enable --quiet holder.service\n",
            "one-board",
        ),
        History(
            "image-based",
            "the mark of a system that runs from an image, as Silverblue does",
            "ls /run/ostree-booted",
            "/run/ostree-booted",
            (File("/etc/tmpfiles.d/ostree.conf", "f /run/ostree-booted 0644 root root\n"),),
        ),
        History(
            "other-systems-in-the-menu",
            "GRUB's menu also starts a root on ZFS, whose arguments are quoted, and a root that is called recovery",
            "grep -c -e 'root=ZFS=\"rpool/ROOT/x\"' -e root=/dev/mapper/pve-recovery /boot/grub/grub.cfg",
            "2",
            (
                File(
                    "/etc/grub.d/45_others",
                    "#!/bin/sh\ncat <<'END'\n"
                    'menuentry "x on ZFS" {\n\tlinux "/BOOT/x@/vmlinuz" root=ZFS="rpool/ROOT/x" ro quiet\n}\n'
                    "menuentry 'Proxmox' {\n\tlinux /vmlinuz root=/dev/mapper/pve-recovery rd.lvm.lv=vg/single ro\n}\n"
                    "END\n",
                    0o755,
                ),
            ),
            _MENU,
        ),
        History(
            "links-in-our-place",
            "a file of ours is somebody's link, and the directories of Quadlets and of the node are links to a disk",
            "readlink /etc/containers/systemd; readlink /var/lib/gevulot; cat /srv/other/boards.conf",
            "/srv/quadlets\n/srv/node\noptions loop max_loop=8",
            (File("/srv/other/boards.conf", "options loop max_loop=8\n"),),
            "mkdir -p /srv/quadlets /srv/node /etc/containers\n"
            "ln -s /srv/other/boards.conf /etc/modprobe.d/gpu-host-boards.conf\n"
            "rm -rf /etc/containers/systemd\n"
            "ln -s /srv/quadlets /etc/containers/systemd\n"
            "ln -s /srv/node /var/lib/gevulot\n",
        ),
        History(
            "port-5432-taken",
            "another program listens on 127.0.0.1:5432",
            "timeout 60 sh -c 'until ss -Htlnp sport = 5432 | grep python3; do sleep 1; done'",
            "127.0.0.1:5432",
            (
                File(
                    "/etc/systemd/system/other-database.service",
                    "[Service]\nExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 5432\n"
                    "[Install]\nWantedBy=multi-user.target\n",
                ),
            ),
            "systemctl enable --quiet other-database.service\n",
        ),
        History(
            "secret-without-data",
            "Podman lists a secret whose data is gone",
            "podman secret ls --noheading --format '{{.Name}}';"
            " podman secret inspect --showsecret gevulot-db-url >/dev/null 2>&1 || echo unreadable",
            "gevulot-db-url\nunreadable",
            script="printf secret | podman secret create gevulot-db-url - >/dev/null\n"
            "rm /var/lib/containers/storage/secrets/filedriver/secretsdata.json\n",
        ),
        History(
            "half-of-the-guide",
            "somebody followed the install guide by hand: an own Quadlet of Postgres, key and vfio.conf",
            "systemctl show -P SourcePath gevulot-postgres.service; stat -c '%s %n' /var/lib/gevulot/node.key",
            "/etc/containers/systemd/gevulot-postgres.container\n32 /var/lib/gevulot/node.key",
            (
                _OWN_VFIO,
                File(
                    "/etc/containers/systemd/gevulot-postgres.container",
                    "[Container]\nContainerName=gevulot-postgres\nImage=docker.io/library/postgres:16-alpine\n"
                    "Network=host\nVolume=/srv/postgres:/var/lib/postgresql/data\n"
                    "Environment=POSTGRES_USER=gevulot POSTGRES_PASSWORD=gevulot POSTGRES_DB=gevulot\n",
                ),
            ),
            "mkdir -p /var/lib/gevulot /srv/postgres\nhead -c 32 /dev/urandom >/var/lib/gevulot/node.key\n",
        ),
        History(
            "storage-is-a-link",
            "/var/lib/gevulot is a link to a directory of a data disk",
            "readlink -f /var/lib/gevulot",
            "/srv/disk/gevulot",
            script="mkdir -p /srv/disk/gevulot\nln -s /srv/disk/gevulot /var/lib/gevulot\n",
        ),
        History(
            "boards-of-others",
            "driverctl gives one board to the host's driver; libvirt and an initramfs script want another",
            "cat /etc/driverctl.d/0000:01:00.0; tail -n 1 /etc/initramfs-tools/scripts/init-top/own-boards",
            "bochs-drm\necho vfio-pci >/sys/bus/pci/devices/0000:02:00.1/driver_override",
            (
                File("/etc/driverctl.d/0000:01:00.0", "bochs-drm\n"),
                File(
                    "/etc/libvirt/qemu/other.xml",
                    "<domain type='kvm'><devices>\n<hostdev mode='subsystem' type='pci' managed='yes'>\n<source>\n"
                    "<address domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>\n</source>\n</hostdev>\n"
                    "</devices></domain>\n",
                ),
                # Not made executable, so that no initramfs runs it.
                File(
                    "/etc/initramfs-tools/scripts/init-top/own-boards",
                    "#!/bin/sh\necho vfio-pci >/sys/bus/pci/devices/0000:02:00.1/driver_override\n",
                ),
            ),
        ),
    )
}


def named(name: str) -> History:
    """Return the history of that name; HistoryError lists the names there are."""
    try:
        return HISTORIES[name]
    except KeyError:
        raise HistoryError(f"no history {name!r}: there are {', '.join(HISTORIES)}") from None


def assert_history(machine: VirtualHost, history: History) -> None:
    """Ask a machine with this history whether it reads as described. Raises HistoryError with what it answered."""
    answer = machine.ssh(history.question, check=False).stdout
    if history.answer not in answer:
        raise HistoryError(
            f"{machine.name} has not the history {history.name}: expected {history.answer!r}, it answered {answer!r}"
        )
