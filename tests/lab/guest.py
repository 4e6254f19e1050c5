"""The guest: which packages and which files make it a bare Debian host that boots quickly, for each platform."""

from dataclasses import dataclass
from typing import Final

from tests.lab.platform import Firmware, Generator, Iommu, Platform, Root

FILESYSTEM = "6c4c1b1c-6765-7675-6c6f-740000000001"
"""The UUID of the root file system."""

EFI_VOLUME: Final = "6C6B0001"
"""The serial number of the EFI partition's file system."""

EFI_IMAGE: Final = "boot/efi.img"
"""Where `configure_script` leaves the EFI partition's content, for the disk only."""

EFI_MIB: Final = 64

VOLUME_GROUP: Final = "lab"
VOLUME: Final = "root"

HOSTNAME = "lab"
REGISTRY_NAME = "registry.lab"
REGISTRY_ADDRESS = "10.0.2.100"
REGISTRY_PORT = 5000

PACKAGES = (
    *("systemd", "systemd-sysv", "libpam-systemd", "udev", "dbus", "sudo", "openssh-server"),
    *("kmod", "e2fsprogs", "procps", "iproute2", "pciutils", "ca-certificates", "python3"),
    # Debian's kernel package recommends apparmor: it is on every host that was installed as usual.
    *("linux-image-amd64", "apparmor", "zstd", "grub2-common"),
    *("podman", "crun", "netavark", "aardvark-dns", "iptables"),
    *("strace", "driverctl"),
)
"""What every platform has; `packages` adds its own."""

_FIRMWARE_PACKAGES: Final = {
    Firmware.BIOS: ("grub-pc-bin",),
    Firmware.UEFI: ("grub-efi-amd64-bin", "dosfstools", "mtools"),
}
_ROOT_PACKAGES: Final[dict[Root, tuple[str, ...]]] = {Root.PARTITION: (), Root.LVM: ("lvm2",)}

DOWNLOADED = ("catatonit", "nftables", "python3-click", "python3-pyudev", "firewalld", "ufw")
"""Packages that a guest can install without a network: their files lie in apt's archive."""

DOWNLOADED_ALONE = ("dpdk", "dracut-core")
"""The same, but without what they recommend: for dpdk-devbind.py that would be all of DPDK."""

MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
)
"""Jobs of a calendar: time jumps when a machine starts from a snapshot, and they would all run."""


def packages(platform: Platform) -> tuple[str, ...]:
    """Return the packages that a platform's bare host has."""
    of_boot = (platform.generator.value, *_FIRMWARE_PACKAGES[platform.firmware], *_ROOT_PACKAGES[platform.root])
    return (*PACKAGES, *of_boot, *platform.packages)


def kernel_arguments(platform: Platform) -> str:
    """Return the arguments of a bare host's kernel: an Intel IOMMU is off, so that a deploy has to switch it on."""
    # The kernel's trial of its timer through a remapped interrupt panics where the emulated one is late, under load.
    return "console=ttyS0" + (" intel_iommu=off" if platform.iommu is Iommu.INTEL else " no_timer_check")


def root_argument(platform: Platform) -> str:
    """Return how fstab and the kernel's command line name the root file system."""
    return f"/dev/mapper/{VOLUME_GROUP}-{VOLUME}" if platform.root is Root.LVM else f"UUID={FILESYSTEM}"


@dataclass(frozen=True)
class File:
    """A file of the guest: absolute path, text, permission bits."""

    path: str
    text: str
    mode: int = 0o644


_STATIC = (
    File("/etc/hostname", f"{HOSTNAME}\n"),
    File(
        "/etc/hosts",
        f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n{REGISTRY_ADDRESS} {REGISTRY_NAME}\n"
        "::1 localhost ip6-localhost ip6-loopback\n",
    ),
    File("/etc/machine-id", "6c6162000000000000000000006c6162\n", 0o444),
    File("/etc/resolv.conf", "nameserver 10.0.2.3\n"),
    File(
        "/etc/systemd/network/10-lab.network",
        # A fixed address is there at once; DHCP costs seconds of each boot.
        "[Match]\nDriver=virtio_net\nKernelCommandLine=!nonet\n\n[Network]\nDHCP=no\nLinkLocalAddressing=no\n"
        "IPv6AcceptRA=no\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n",
    ),
    File(
        "/etc/containers/registries.conf.d/lab.conf",
        f'[[registry]]\nlocation = "{REGISTRY_NAME}:{REGISTRY_PORT}"\ninsecure = true\n',
    ),
    File("/etc/kernel-img.conf", "do_symlinks = yes\n"),
    File(
        "/etc/apt/apt.conf.d/90lab",
        'APT::Periodic::Enable "0";\nAPT::Install-Recommends "false";\n'
        'APT::Keep-Downloaded-Packages "true";\nAcquire::Languages "none";\n',
    ),
    File("/etc/sudoers.d/operator", "operator ALL=(ALL) NOPASSWD: ALL\n", 0o440),
    File(
        "/etc/ssh/sshd_config.d/lab.conf",
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\nPrintMotd no\n"
        "HostKey /etc/ssh/ssh_host_ed25519_key\nMaxStartups 100\nMaxSessions 100\n"
        # Whoever waits for the server by its banner never logs in, and would soon be turned away for that.
        "PerSourcePenalties no\n",
    ),
    File("/etc/systemd/journald.conf.d/lab.conf", "[Journal]\nStorage=persistent\n"),
)


def files(platform: Platform, operator_key: str, host_key_private: str, host_key_public: str) -> tuple[File, ...]:
    """Return every file of the guest, the given SSH keys among them (as OpenSSH writes them)."""
    return (
        *_STATIC,
        *_boot_files(platform),
        File("/root/.ssh/authorized_keys", operator_key + "\n", 0o600),
        File("/home/operator/.ssh/authorized_keys", operator_key + "\n", 0o600),
        File("/etc/ssh/ssh_host_ed25519_key", host_key_private, 0o600),
        File("/etc/ssh/ssh_host_ed25519_key.pub", host_key_public + "\n"),
    )


def _boot_files(platform: Platform) -> tuple[File, ...]:
    efi = f"UUID={EFI_VOLUME[:4]}-{EFI_VOLUME[4:]} /boot/efi vfat umask=0077 0 1\n"
    return (
        File(
            "/etc/fstab",
            f"{root_argument(platform)} / ext4 defaults 0 1\n" + (efi if platform.firmware is Firmware.UEFI else ""),
        ),
        File(
            "/etc/default/grub",
            'GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_RECORDFAIL_TIMEOUT=0\nGRUB_DISTRIBUTOR="Debian"\n'
            f'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="{kernel_arguments(platform)}"\n'
            "GRUB_TERMINAL=console\nGRUB_DISABLE_OS_PROBER=true\n",
        ),
        *_initramfs_files(platform),
    )


def _initramfs_files(platform: Platform) -> tuple[File, ...]:
    """Return what keeps the initramfs small: it is built and unpacked by an emulated processor."""
    if platform.generator is Generator.INITRAMFS_TOOLS:
        return (
            File("/etc/initramfs-tools/conf.d/lab", "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n"),
            File("/usr/share/initramfs-tools/modules.d/lab", "virtio_pci\nvirtio_blk\next4\n"),
        )
    # While packages are installed the host is another one than that which boots: what its root needs is named.
    volumes = 'add_dracutmodules+=" lvm "\n' if platform.root is Root.LVM else ""
    drivers = 'hostonly="yes"\nadd_drivers+=" virtio_pci virtio_blk ext4 "\n'
    return (File("/etc/dracut.conf.d/lab.conf", f'{drivers}{volumes}compress="zstd -1"\n'),)


BEFORE_PACKAGES = (
    "/etc/initramfs-tools/conf.d/lab",
    "/usr/share/initramfs-tools/modules.d/lab",
    "/etc/dracut.conf.d/lab.conf",
    "/etc/kernel-img.conf",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
)
"""Files that must be there while packages are configured: they decide what is generated."""

_GRUB_MODULES: Final = (
    *("ext2", "normal", "configfile", "linux", "gzio", "loadenv"),
    *("search", "search_fs_uuid", "echo", "test", "terminal", "minicmd", "ls", "cat", "halt"),
)
_GRUB_DISKS: Final = {Firmware.BIOS: ("biosdisk", "part_msdos"), Firmware.UEFI: ("part_gpt", "fat")}
_GRUB_ROOTS: Final = {
    (Firmware.BIOS, Root.PARTITION): "hd0,msdos1",
    (Firmware.UEFI, Root.PARTITION): "hd0,gpt2",
    (Firmware.BIOS, Root.LVM): f"lvm/{VOLUME_GROUP}-{VOLUME}",
    (Firmware.UEFI, Root.LVM): f"lvm/{VOLUME_GROUP}-{VOLUME}",
}


def _grub_modules(platform: Platform) -> tuple[str, ...]:
    """Return GRUB's modules: those that reach the disk first."""
    return (*_GRUB_DISKS[platform.firmware], *(("lvm",) if platform.root is Root.LVM else ()), *_GRUB_MODULES)


def grub_menu(platform: Platform) -> str:
    """Return the boot menu of a bare host, of one entry."""
    disks = [module for module in _grub_modules(platform) if module.startswith(("part_", "lvm"))]
    inserted = "".join(f"insmod {module}\n" for module in (*disks, "ext2"))
    return f"""\
set default="0"
set timeout=0
{inserted}set root='{_GRUB_ROOTS[platform.firmware, platform.root]}'
search --no-floppy --fs-uuid --set=root {FILESYSTEM}
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os {{
\tinsmod gzio
\tlinux /vmlinuz root={root_argument(platform)} ro {kernel_arguments(platform)} quiet
\tinitrd /initrd.img
}}
"""


_GRUB_FOR_BIOS: Final = """\
grub-mkimage -O i386-pc -o /boot/grub/i386-pc/core.img -p '({root})/boot/grub' {modules}
cp /usr/lib/grub/i386-pc/boot.img /boot/grub/i386-pc/boot.img
"""
"""The disk's writer puts both before the first partition."""

_GRUB_FOR_UEFI: Final = f"""\
mkdir -p /boot/efi
echo 'search.fs_uuid {FILESYSTEM} root' >/tmp/early
echo 'set prefix=($root)/boot/grub' >>/tmp/early
grub-mkimage -O x86_64-efi -o /tmp/grub.efi -c /tmp/early -p /boot/grub {{modules}}
mkfs.vfat -C -F 32 -n EFI -i {EFI_VOLUME} /{EFI_IMAGE} {EFI_MIB * 1024} >/dev/null
mmd -i /{EFI_IMAGE} ::/EFI ::/EFI/BOOT
mcopy -i /{EFI_IMAGE} /tmp/grub.efi ::/EFI/BOOT/BOOTX64.EFI
rm /tmp/early /tmp/grub.efi
"""
"""The path is the one that the firmware takes when no variable names another: the lab's firmware keeps no variables."""

_NEWER_KERNEL: Final = """\
cd /etc/apt
sed -n 's/^\\(deb .*\\) {suite} main.*/\\1 {suite}-backports main/p' sources.list >sources.list.d/new.list
apt-get -q update
kernels=$(apt-cache pkgnames linux-image- | grep -E '^linux-image-[0-9.]+[+][a-z0-9]+-amd64$' | sort -V)
before=$(echo "$kernels" | tail -n 2 | head -n 1)
apt-get -q install --yes --target-release {suite}-backports "$before" linux-base
"""

_CONFIGURE = f"""\
set -eu
useradd --gid operator --create-home --shell /bin/bash --uid 1000 operator
chown -R operator:operator /home/operator
chmod 700 /root/.ssh /home/operator/.ssh
passwd --lock root >/dev/null
systemctl enable systemd-networkd.service ssh.service >/dev/null 2>&1
systemctl mask {" ".join(MASKED)} >/dev/null 2>&1
systemctl set-default multi-user.target >/dev/null 2>&1
rm -f /etc/ssh/ssh_host_rsa_key* /etc/ssh/ssh_host_ecdsa_key*
rm -rf /var/lib/containers
find /var/log -type f -delete
{{newer_kernel}}apt-get clean
mkdir -p /boot/grub/{{target}} /var/lib/apt/periodic
cp /usr/lib/grub/{{target}}/*.mod /usr/lib/grub/{{target}}/*.lst /boot/grub/{{target}}/
{{loader}}grub-editenv /boot/grub/grubenv create
cat >/boot/grub/grub.cfg <<'MENU'
{{menu}}MENU
apt-get -o APT::Install-Recommends=true install --yes --download-only {" ".join(DOWNLOADED)}
apt-get install --yes --download-only {" ".join(DOWNLOADED_ALONE)}
touch /var/lib/apt/periodic/update-success-stamp
touch /etc/.updated /var/.updated
"""


def configure_script(platform: Platform) -> str:
    """Return the shell script that runs once in the guest's root, after all packages."""
    uefi = platform.firmware is Firmware.UEFI
    loader = _GRUB_FOR_UEFI if uefi else _GRUB_FOR_BIOS
    return _CONFIGURE.format(
        newer_kernel=_NEWER_KERNEL.format(suite=platform.suite) if platform.newer_kernel else "",
        target="x86_64-efi" if uefi else "i386-pc",
        loader=loader.format(
            root=_GRUB_ROOTS[platform.firmware, platform.root], modules=" ".join(_grub_modules(platform))
        ),
        menu=grub_menu(platform),
    )
