"""What a deploy puts on a host: one row a file, and the names of units, containers, secrets and kernel modules.

Pushing, restarting, the archive before the first deploy, the undo, and the table in docs/files-on-a-node.md derive from
these rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from facts.database import PostgresLogin
from pcibind.change import boot_files
from pcibind.read import initramfs
from pcibind.read.files import Paths

TEMPLATES = Path(__file__).parent / "templates"
"""Templates, laid out as the files land: a template's path is the file's, with ``.j2`` at its end."""

NODE_UNIT = "gevulot-node.service"
MIGRATION_UNIT = "gevulot-migrate.service"
KEY_UNIT = "gevulot-key.service"
FIREWALL_UNIT = "gevulot-firewall.service"
POSTGRES_UNIT = "gevulot-postgres.service"
PCIBIND_UNIT = boot_files.UNIT
UPDATE_TIMER = "podman-auto-update.timer"

# The order in which they start: what the node's unit requires.
NODE_REQUIRES = (PCIBIND_UNIT, FIREWALL_UNIT, POSTGRES_UNIT, MIGRATION_UNIT, KEY_UNIT)
# Those that the status shows.
STATUS_UNITS = (NODE_UNIT, MIGRATION_UNIT, POSTGRES_UNIT, FIREWALL_UNIT, PCIBIND_UNIT)

NODE_CONTAINER = "gevulot-node"
# Where the node's image has its data.
NODE_DATA = "/var/lib/gevulot"
# The variable by which the node learns the functions that it may give to programs.
GPU_DEVICES = "GEVULOT_GPU_DEVICES"
# The names of the virtual machines that a deploy starts to verify the node begin with it.
VERIFICATION_MACHINE = "gevulot-verification"
NODE_ACCOUNT = "gevulot"
NODE_TABLE = "gevulot"
"""The node's nftables table, of the family inet."""

HAND_OVER = f"{Paths().run}/devices.env"
"""The boards that the node may use."""

PASSPHRASE_SECRET = "gevulot-psk-passphrase"
PASSWORD_SECRET = "gevulot-db-password"
URL_SECRET = "gevulot-db-url"
POSTGRES_LOGIN = PostgresLogin("gevulot-postgres", "gevulot", PASSWORD_SECRET)

# By one of these texts a file of ours is known that asks for the boards of gevulot_vfio_ids.
VFIO_IDS_TEXTS = ("gevulot_vfio_ids", "by the key vfio_ids of the inventory")

HOST_MODULES = ("vfio", "vfio_pci", "vfio_iommu_type1", "kvm")
"""The kernel modules that a host needs to hand boards over to virtual machines."""
NODE_MODULES = ("vsock", "vhost_vsock")
"""Those that a node needs beside them."""
MODULES = (*HOST_MODULES, *NODE_MODULES)

INITRAMFS = "initramfs"
BOOT_MENU = "boot menu"
COMMAND = "command"


class ManagedFile(NamedTuple):
    """A file of root's.

    ``consumer`` is what takes a change of it up: the initramfs (rebuilt), the boot menu (written anew), a unit
    (restarted), or nothing, where each run of a command reads it. ``mode`` is in octal digits.
    """

    path: str
    consumer: str
    mode: str = "644"


BLACKLIST = ManagedFile("/etc/modprobe.d/gpu-host-boards.conf", INITRAMFS)
MODULES_LOAD = ManagedFile("/etc/modules-load.d/gpu-host.conf", INITRAMFS)
VFIO_RULE = ManagedFile("/etc/udev/rules.d/99-gpu-host-vfio.rules", INITRAMFS)
GRUB_DROP_IN = ManagedFile("/etc/default/grub.d/zz-gpu-host.cfg", BOOT_MENU)

EARLY_RULE = ManagedFile(boot_files.RULE_PATH, INITRAMFS)
INITRAMFS_HOOK = ManagedFile(boot_files.INITRAMFS_HOOK_PATH, INITRAMFS, "755")
DRACUT_CONF = ManagedFile(boot_files.DRACUT_PATH, INITRAMFS)
PCIBIND = ManagedFile("/usr/local/sbin/pcibind", COMMAND, "755")
PCIBIND_BOARDS = ManagedFile(f"{Paths().configuration}/gpu-host.toml", COMMAND)
PCIBIND_UNITS = tuple(ManagedFile(path, boot_files.UNIT) for path in boot_files.UNIT_PATHS)

NODE_MODULES_LOAD = ManagedFile("/etc/modules-load.d/gevulot-node.conf", INITRAMFS)

POSTGRES_QUADLET = ManagedFile("/etc/containers/systemd/gevulot-postgres.container", POSTGRES_UNIT)
HBA = ManagedFile("/etc/gevulot/pg_hba.conf", POSTGRES_UNIT)
IDENT = ManagedFile("/etc/gevulot/pg_ident.conf", POSTGRES_UNIT)

FIREWALL_SERVICE = ManagedFile(f"/etc/systemd/system/{FIREWALL_UNIT}", FIREWALL_UNIT)
FIREWALL_RULES = ManagedFile("/etc/gevulot/firewall.nft", FIREWALL_UNIT)
QMP_RULES = ManagedFile("/etc/gevulot/qmp.nft", FIREWALL_UNIT)
FIREWALL_PROGRAM = ManagedFile("/usr/local/libexec/gevulot/firewall", FIREWALL_UNIT, "755")

NODE_QUADLET = ManagedFile("/etc/containers/systemd/gevulot-node.container", NODE_UNIT)
NODE_ENVIRONMENT = ManagedFile("/etc/gevulot/node.env", NODE_UNIT)
# The node's start pulls its migration in. Both read the same image and URL.
MIGRATION_SERVICE = ManagedFile(f"/etc/systemd/system/{MIGRATION_UNIT}", NODE_UNIT)
MIGRATION_PROGRAM = ManagedFile("/usr/local/libexec/gevulot/migrate", NODE_UNIT, "755")
ALLOW_VSOCK = ManagedFile("/usr/local/libexec/gevulot/allow-vsock", NODE_UNIT, "755")
# It runs at each start of the node, so a node that runs has no use for a change.
KEY_SERVICE = ManagedFile(f"/etc/systemd/system/{KEY_UNIT}", KEY_UNIT)
KEY_PROGRAM = ManagedFile("/usr/local/libexec/gevulot/hand-over-key", KEY_UNIT, "755")

# Those of any host that hands boards over. None is named after what takes the boards.
HOST = (
    *(BLACKLIST, MODULES_LOAD, VFIO_RULE, GRUB_DROP_IN),
    *(EARLY_RULE, INITRAMFS_HOOK, DRACUT_CONF, PCIBIND, PCIBIND_BOARDS, *PCIBIND_UNITS),
)
# And those of a node. Its modules have a file of their own, so that no run for the host alone takes them away.
NODE = (
    NODE_MODULES_LOAD,
    *(POSTGRES_QUADLET, HBA, IDENT),
    *(FIREWALL_SERVICE, FIREWALL_RULES, QMP_RULES, FIREWALL_PROGRAM),
    *(NODE_QUADLET, NODE_ENVIRONMENT, MIGRATION_SERVICE, MIGRATION_PROGRAM, ALLOW_VSOCK, KEY_SERVICE, KEY_PROGRAM),
)
MANAGED = (*HOST, *NODE)
MODULE_FILES = (BLACKLIST.path, MODULES_LOAD.path, VFIO_RULE.path, NODE_MODULES_LOAD.path)
# GRUB's drop-in is judged with the boot menu, whose other files decide what it does.
HOST_FILES = tuple(file.path for file in HOST if file.consumer != BOOT_MENU)
NODE_FILES = tuple(file.path for file in NODE)
FILES = (*HOST_FILES, *NODE_FILES)

# What earlier versions called the files of a host, which only nodes had then: today's path → theirs.
FORMER_NAMES = {
    BLACKLIST.path: "/etc/modprobe.d/gevulot-boards.conf",
    VFIO_RULE.path: "/etc/udev/rules.d/99-gevulot-vfio.rules",
    GRUB_DROP_IN.path: "/etc/default/grub.d/zz-gevulot.cfg",
    PCIBIND_BOARDS.path: f"{Paths().configuration}/gevulot.toml",
}
# No earlier version wrote one of these: the host's modules stood in the file of a node's.
NEW_NAMES = (*FORMER_NAMES, MODULES_LOAD.path)

# Our files that decide what an initramfs does, under today's and earlier names, with pcibind's. Others' files are their
# owners' affair.
INITRAMFS_FILES = (
    *(path for paths in initramfs.EARLY for path in paths),
    *(BLACKLIST.path, FORMER_NAMES[BLACKLIST.path], "/etc/modprobe.d/nvidia.conf", "/etc/modprobe.d/vfio.conf"),
    *(MODULES_LOAD.path, NODE_MODULES_LOAD.path, "/etc/modules-load.d/vfio.conf", "/etc/modules-load.d/vsock.conf"),
)
# What decides the content of an initramfs on our behalf.
INITRAMFS_INPUTS = (
    "/etc/modprobe.d",
    "/etc/modules-load.d",
    "/etc/udev/rules.d",
    "/etc/initramfs-tools/hooks",
    "/etc/dracut.conf.d",
    initramfs.LIST,
    boot_files.SCRIPT_PATH,
)

# The node's units, with the file that each is made from, in the order in which they stop.
NODE_UNITS = {
    NODE_UNIT: NODE_QUADLET.path,
    KEY_UNIT: KEY_SERVICE.path,
    MIGRATION_UNIT: MIGRATION_SERVICE.path,
    FIREWALL_UNIT: FIREWALL_SERVICE.path,
    POSTGRES_UNIT: POSTGRES_QUADLET.path,
}

# Below these, systemd and its generators read before any other file system than that of /etc is mounted.
READ_FIRST = ("/etc/containers/systemd", "/etc/systemd/system")

# All in it moves on with its directory, the keys that a node's deploys put on the access list too: one rename cannot
# lose a part. The fingerprint of a node's key is elsewhere (/etc/gevulot), and stays there.
STATE_DIRECTORY = "/var/lib/gpu-host"
FORMER_STATE_DIRECTORY = "/var/lib/gevulot-deploy"
# What an earlier version wrote is read there until a deploy moves it. The record says which of the two counts.
STATE_DIRECTORIES = (STATE_DIRECTORY, FORMER_STATE_DIRECTORY)
RECORD = f"{STATE_DIRECTORY}/before.json"
ARCHIVE = f"{STATE_DIRECTORY}/before.tar"
ARGUMENTS = f"{STATE_DIRECTORY}/arguments"
# One word: what the host was deployed as, AS_GPU_HOST or AS_NODE. A node stays one, whatever runs for its host alone.
DEPLOYED = f"{STATE_DIRECTORY}/deploy"
# There while a deploy moves the host on to today's names: until then those of earlier versions are ours.
RENAMING = f"{STATE_DIRECTORY}/renaming"
# One unit a line: those that a deploy saw fail that had not failed before it, until a deploy sees them recovered.
FAILED_UNITS = f"{STATE_DIRECTORY}/failed-units"
# The keys that deploys put on the node's access list, one a line. Others' keys are left alone.
ACCESS_RECORD = f"{STATE_DIRECTORY}/access"
# Its time says when all checks last passed. Of this boot: after the next one nobody has looked yet.
VERIFIED = "/run/gpu-host/verified"
# A file a unit: with what content of its files it runs.
UNIT_INPUTS = "/run/gpu-host/inputs"
AS_GPU_HOST = "gpu_host"
AS_NODE = "node"


def former_path(path: str) -> str:
    """Where earlier versions kept a file of the state directory, or that directory; any other path as it is."""
    if path == STATE_DIRECTORY or path.startswith(f"{STATE_DIRECTORY}/"):
        return FORMER_STATE_DIRECTORY + path.removeprefix(STATE_DIRECTORY)
    return path


def consumed_by(unit: str) -> tuple[str, ...]:
    """The paths of the files whose change makes a unit restart."""
    return tuple(file.path for file in MANAGED if file.consumer == unit)


def files_of_units(*units: str) -> tuple[str, ...]:
    """The paths of the units' own files and of those that they consume, the units' own first."""
    own = [NODE_UNITS[unit] for unit in units]
    return tuple(dict.fromkeys([*own, *(path for unit in units for path in consumed_by(unit))]))
