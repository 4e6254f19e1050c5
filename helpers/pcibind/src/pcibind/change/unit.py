"""The systemd unit that binds the recorded boards at every boot."""

from __future__ import annotations

NAME = "pcibind.service"
PATH = f"/etc/systemd/system/{NAME}"

COMMAND = "/usr/bin/python3 -I -S /usr/local/lib/pcibind/__main__.py"
"""How pcibind is run where it lies as a directory of its own, without site-packages."""

_TEXT = """\
[Unit]
Description=Bind the chosen PCI boards to vfio-pci
DefaultDependencies=no
ConditionPathExists=/var/lib/pcibind/record.json
Wants=modprobe@vfio_pci.service
After=local-fs.target systemd-udevd.service systemd-modules-load.service modprobe@vfio_pci.service
Before=sysinit.target display-manager.service nvidia-persistenced.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=@COMMAND@ apply --recorded
TimeoutStartSec=15min
RuntimeDirectory=pcibind
RuntimeDirectoryPreserve=yes
UMask=0077

# What is missing here is needed: /sys is written, and the open files of other processes are
# looked at (CAP_SYS_PTRACE sees through ProtectProc). Modules come from modprobe@vfio_pci.service,
# not from a capability. Before a board leaves vfio-pci, its groups' device nodes are opened:
# char-vfio is all of them, also those made later, by the major number that vfio has in
# /proc/devices when this starts, so after that service.
CapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH
NoNewPrivileges=yes
PrivateMounts=yes
ProtectSystem=strict
ReadWritePaths=-/etc/pcibind -/var/lib/pcibind
ProtectHome=read-only
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectProc=invisible
DevicePolicy=closed
DeviceAllow=char-vfio rw
IPAddressDeny=any
RestrictAddressFamilies=none
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
KeyringMode=private

[Install]
WantedBy=sysinit.target
"""


def render(command: str = COMMAND) -> str:
    """The text of pcibind.service; `command` is how pcibind is run, quoted for systemd.

    It comes before sysinit.target, so before every ordinary unit; what it comes after is early
    itself, so that there is no cycle. The time-out is far above the sum of the bounded accesses.
    """
    return _TEXT.replace("@COMMAND@", command)
