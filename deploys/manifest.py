"""The files that a deploy puts on a host: one name for each, which nobody else uses."""

from __future__ import annotations

from pcibind.change import early, unit

BLACKLIST = "/etc/modprobe.d/gevulot-boards.conf"
MODULES_LOAD = "/etc/modules-load.d/gevulot-node.conf"
VFIO_RULE = "/etc/udev/rules.d/99-gevulot-vfio.rules"
MODULE_FILES = (BLACKLIST, MODULES_LOAD, VFIO_RULE)

# Below these, systemd and its generators read before any other file system than that of /etc is mounted.
READ_FIRST = ("/etc/containers/systemd", "/etc/systemd/system")
FILES = (
    *MODULE_FILES,
    "/etc/containers/systemd/gevulot-node.container",
    "/etc/containers/systemd/gevulot-postgres.container",
    "/etc/gevulot/firewall.nft",
    "/etc/gevulot/node.env",
    "/etc/gevulot/pg_hba.conf",
    "/etc/gevulot/pg_ident.conf",
    "/etc/gevulot/qmp.nft",
    "/etc/pcibind/gevulot.toml",
    "/etc/systemd/system/gevulot-firewall.service",
    "/etc/systemd/system/gevulot-key.service",
    "/etc/systemd/system/gevulot-migrate.service",
    "/usr/local/libexec/gevulot/allow-vsock",
    "/usr/local/libexec/gevulot/firewall",
    "/usr/local/libexec/gevulot/hand-over-key",
    "/usr/local/libexec/gevulot/migrate",
    "/usr/local/sbin/pcibind",
    *unit.PATHS,
    early.RULE_PATH,
    early.INITRAMFS_HOOK_PATH,
    early.DRACUT_PATH,
)
"""Every file that is pushed, but for GRUB's drop-in, whose name is next_boot.DROP_IN."""

STATE_DIRECTORY = "/var/lib/gevulot-deploy"
RECORD = f"{STATE_DIRECTORY}/before.json"
ARCHIVE = f"{STATE_DIRECTORY}/before.tar"
ARGUMENTS = f"{STATE_DIRECTORY}/arguments"
