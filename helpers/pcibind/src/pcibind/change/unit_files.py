"""The texts of the systemd units: for a boot, for boards that come and go, for `pcibind=off`."""

from __future__ import annotations

NAME = "pcibind.service"
PATH = f"/etc/systemd/system/{NAME}"
WANTED_BY = "sysinit.target"

COMMAND = "/usr/bin/python3 -I -S /usr/local/lib/pcibind/__main__.py"
"""How pcibind is run where it lies as a directory of its own, without site-packages."""

_TEXT = """\
[Unit]
Description=Bind the chosen PCI boards to vfio-pci
DefaultDependencies=no
ConditionPathExists=/var/lib/pcibind/record.json
ConditionKernelCommandLine=!pcibind=off
Wants=modprobe@vfio_pci.service pcibind-hotplug.path pcibind-off.service
After=local-fs.target systemd-udevd.service systemd-modules-load.service modprobe@vfio_pci.service
Before=sysinit.target display-manager.service nvidia-persistenced.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=@COMMAND@ apply --recorded
@SANDBOX@
[Install]
WantedBy=sysinit.target
"""

# A path unit is level triggered: an event during a run of the service starts it once more.
_HOTPLUG_PATH = """\
[Unit]
Description=Watch for chosen PCI boards that come and go
DefaultDependencies=no
ConditionKernelCommandLine=!pcibind=off
Before=pcibind.service shutdown.target
Conflicts=shutdown.target

[Path]
DirectoryNotEmpty=/run/pcibind/events
MakeDirectory=yes
DirectoryMode=0755
"""

_HOTPLUG = """\
[Unit]
Description=Bind the chosen PCI boards that have appeared, and hand over what is bound
After=pcibind.service
Wants=modprobe@vfio_pci.service
After=modprobe@vfio_pci.service
# One run for each board that is plugged in, however many there are.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=@COMMAND@ apply --arrived
# A board that is not there: its hand-over ended, and nothing failed.
SuccessExitStatus=4
PrivateTmp=yes
@SANDBOX@"""

_OFF = """\
[Unit]
Description=Leave the chosen PCI boards with the host, for this boot
DefaultDependencies=no
ConditionPathExists=/var/lib/pcibind/record.json
ConditionKernelCommandLine=pcibind=off
After=local-fs.target systemd-udevd.service systemd-modules-load.service modprobe@vfio_pci.service
Before=sysinit.target display-manager.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=@COMMAND@ release --this-boot
# Guards look at the network, and none is asked about what goes back to the host.
PrivateNetwork=yes
@SANDBOX@"""

_SANDBOX = """\
TimeoutStartSec=15min
RuntimeDirectory=pcibind cdi
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
"""


def files(command: str = COMMAND) -> dict[str, str]:
    """The text of every unit, by its path; `command` is how pcibind is run, quoted for systemd.

    pcibind.service pulls the others in. It comes before sysinit.target, so before every ordinary
    unit; what it comes after is early itself, so that there is no cycle. The time-out is far above
    the sum of the bounded accesses.
    """
    # It loads the modules that a blacklist keeps away.
    off = (
        _SANDBOX.replace("=CAP_SYS_PTRACE", "=CAP_SYS_MODULE CAP_SYS_PTRACE")
        .replace("ProtectKernelModules=yes\n", "")
        .replace("@resources\n", "@resources\nSystemCallFilter=@module\n")
    )
    texts = {
        "pcibind.service": _TEXT.replace("@SANDBOX@", _SANDBOX),
        "pcibind-hotplug.path": _HOTPLUG_PATH,
        "pcibind-hotplug.service": _HOTPLUG.replace("@SANDBOX@", _SANDBOX),
        "pcibind-off.service": _OFF.replace("@SANDBOX@", off),
    }
    directory = PATH.rpartition("/")[0]
    return {
        f"{directory}/{name}": text.replace("@COMMAND@", command) for name, text in texts.items()
    }


PATHS = tuple(files())
"""Where the units are on a host, pcibind.service first."""
