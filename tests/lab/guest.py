"""The guest: which packages and which files make it a bare Debian 13 host that boots quickly."""

from dataclasses import dataclass

SUITE = "trixie"
FILESYSTEM = "6c4c1b1c-6765-7675-6c6f-740000000001"
"""The UUID of the root file system."""

HOSTNAME = "lab"
REGISTRY_NAME = "registry.lab"
REGISTRY_ADDRESS = "10.0.2.100"
REGISTRY_PORT = 5000

PACKAGES = (
    *("systemd", "systemd-sysv", "libpam-systemd", "udev", "dbus", "sudo", "openssh-server"),
    *("kmod", "e2fsprogs", "procps", "iproute2", "pciutils", "ca-certificates", "python3"),
    *("linux-image-amd64", "initramfs-tools", "zstd", "grub-pc-bin", "grub2-common"),
    *("podman", "crun", "netavark", "aardvark-dns", "iptables"),
    *("strace", "driverctl"),
)

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

KERNEL_ARGUMENTS = "console=ttyS0 intel_iommu=off"


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
    File("/etc/fstab", f"UUID={FILESYSTEM} / ext4 defaults 0 1\n"),
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
    File(
        "/etc/default/grub",
        'GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_RECORDFAIL_TIMEOUT=0\nGRUB_DISTRIBUTOR="Debian"\n'
        f'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="{KERNEL_ARGUMENTS}"\n'
        "GRUB_TERMINAL=console\nGRUB_DISABLE_OS_PROBER=true\n",
    ),
    File("/etc/kernel-img.conf", "do_symlinks = yes\n"),
    File("/etc/initramfs-tools/conf.d/lab", "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n"),
    File("/usr/share/initramfs-tools/modules.d/lab", "virtio_pci\nvirtio_blk\next4\n"),
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


def files(operator_key: str, host_key_private: str, host_key_public: str) -> tuple[File, ...]:
    """Return every file of the guest, the given SSH keys among them (as OpenSSH writes them)."""
    return (
        *_STATIC,
        File("/root/.ssh/authorized_keys", operator_key + "\n", 0o600),
        File("/home/operator/.ssh/authorized_keys", operator_key + "\n", 0o600),
        File("/etc/ssh/ssh_host_ed25519_key", host_key_private, 0o600),
        File("/etc/ssh/ssh_host_ed25519_key.pub", host_key_public + "\n"),
    )


BEFORE_PACKAGES = (
    "/etc/initramfs-tools/conf.d/lab",
    "/usr/share/initramfs-tools/modules.d/lab",
    "/etc/kernel-img.conf",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
)
"""Files that must be there while packages are configured: they decide what is generated."""

GRUB_MODULES = (
    *("biosdisk", "part_msdos", "ext2", "normal", "configfile", "linux", "gzio", "loadenv"),
    *("search", "search_fs_uuid", "echo", "test", "terminal", "minicmd", "ls", "cat", "halt"),
)

GRUB_MENU = f"""\
set default="0"
set timeout=0
insmod part_msdos
insmod ext2
set root='hd0,msdos1'
search --no-floppy --fs-uuid --set=root {FILESYSTEM}
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os {{
\tinsmod gzio
\tlinux /vmlinuz root=UUID={FILESYSTEM} ro {KERNEL_ARGUMENTS} quiet
\tinitrd /initrd.img
}}
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
apt-get clean
mkdir -p /boot/grub/i386-pc /var/lib/apt/periodic
cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /boot/grub/i386-pc/
grub-mkimage -O i386-pc -o /boot/grub/i386-pc/core.img -p '(hd0,msdos1)/boot/grub' {{modules}}
cp /usr/lib/grub/i386-pc/boot.img /boot/grub/i386-pc/boot.img
grub-editenv /boot/grub/grubenv create
cat >/boot/grub/grub.cfg <<'MENU'
{{menu}}MENU
apt-get -o APT::Install-Recommends=true install --yes --download-only {" ".join(DOWNLOADED)}
apt-get install --yes --download-only {" ".join(DOWNLOADED_ALONE)}
touch /var/lib/apt/periodic/update-success-stamp
touch /etc/.updated /var/.updated
"""


def configure_script() -> str:
    """Return the shell script that runs once in the guest's root, after all packages."""
    return _CONFIGURE.format(modules=" ".join(GRUB_MODULES), menu=GRUB_MENU)
