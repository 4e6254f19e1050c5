"""From bare to deployed, once for all tests of a deployed host: what was done, and what the host was like before."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from deploys.manifest import VFIO_RULE
from tests.lab import stage
from tests.lab.containers.node.stand_in import keys
from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import Run, pyinfra
from tests.lab.stage import Kept, Stage

DRIVERS = (
    "for device in /sys/bus/pci/devices/*; do "
    "driver=$(readlink $device/driver); echo $(readlink -f $device) ${driver##*/}; done"
)
SERVICES = "systemctl list-units --type=service --state=running --plain --no-legend --no-pager | cut -d' ' -f1 | sort"

BY_HAND = VFIO_RULE.path
"""A file in the place of one of ours, which the host has already."""

STRANGER = keys.public_key((1).to_bytes(32, "big"))
"""A key that somebody else than the deploy puts on the node's access list."""

# A login's own services, and Debian's proxy that ends by itself when it is idle.
COME_AND_GO = ("user@", "session", "netavark-dhcp-proxy")

RECORDER_UNIT = "/etc/systemd/system/record-arguments.service"
RECORDER = r"""[Service]
ExecStart=/bin/sh -c 'while sleep 1; do cat /proc/[0-9]*/cmdline; echo; done >>/root/arguments 2>/dev/null'
[Install]
WantedBy=multi-user.target
"""

# Every question is about the host's boot and boards. The kernel's path is not compared: an update changes it.
HOST = {
    "drivers": "for each in /sys/bus/pci/devices/*; do driver=$(readlink $each/driver); "
    "echo $(readlink -f $each) driver=${driver##*/} override=$(cat $each/driver_override); done",
    "kernel command line": "sed 's/BOOT_IMAGE=[^ ]* //' /proc/cmdline",
    "boot menu": "sha256sum /boot/grub/grub.cfg",
    "initramfs": "lsinitramfs /boot/initrd.img-$(uname -r) | sort",
    "enabled units": "systemctl list-unit-files --state=enabled --no-legend --no-pager",
    "files": "find /etc /usr/local -xdev -type f -exec sha256sum {} + | sort -k2",
    "entries": r"find /etc /usr/local -xdev -printf '%p %y %m %u:%g %l\n' | sort",
    "boot": "ls -1 /boot",
    "pcibind": "ls -d /run/pcibind /var/lib/pcibind 2>/dev/null; true",
    "system": "systemctl is-system-running",
}


@dataclass(frozen=True, slots=True)
class Story:
    """What was done to the machine before the first test looks at it.

    `host` is what the bare host was like, by the questions of `HOST`; `bare` and `after_never` are what ran, before
    anything was done and after the run that must not change it.
    """

    host: dict[str, str]
    bare: dict[str, str]
    plan: Run
    never: Run
    after_never: dict[str, str]
    first: Run

    @classmethod
    def of(cls, kept: Kept) -> Self:
        """Read what was kept with the stage."""
        runs = {name: Run(**kept.records[name]) for name in ("plan", "never", "first")}
        return cls(**{**kept.records, **runs})


def host_state(machine: Machine) -> dict[str, str]:
    """What an undo must bring back."""
    return {name: machine.ssh(command, check=name != "system").stdout for name, command in HOST.items()}


def running_state(machine: Machine) -> dict[str, str]:
    """Boot, drivers, modules' users and services: what `reboot='never'` must leave alone."""
    return {
        "boot": machine.boot_id(),
        "drivers": machine.ssh(DRIVERS).stdout,
        "services": "\n".join(
            line for line in machine.ssh(SERVICES).stdout.splitlines() if not line.startswith(COME_AND_GO)
        ),
    }


def record_arguments(machine: Machine) -> None:
    """Have every process's arguments written down once a second, from now on and after each boot."""
    machine.ssh(f"umask 077; cat >{RECORDER_UNIT} && systemctl enable --now {RECORDER_UNIT}", stdin=RECORDER)


def forget_recorder(machine: Machine) -> None:
    """Take away what `record_arguments` put there."""
    machine.ssh(f"systemctl disable --now record-arguments && rm {RECORDER_UNIT} && systemctl daemon-reload")


def play(machine: Machine, say: Progress) -> dict[str, Any]:
    """Plan, deploy without permission to reboot, and deploy."""
    machine.ssh(f"echo '# set up by hand' >{BY_HAND}; chmod 640 {BY_HAND}")
    # The image's own were made while it was built, not by the host; a deploy and an undo have the host make them.
    with step(say, "having the bare host make its boot files", takes="about a minute"):
        machine.ssh("update-grub 2>/dev/null; update-initramfs -u -k all", timeout=600)
    host = host_state(machine)
    bare = running_state(machine)
    with step(say, "planning on a bare host", takes="about 40 s"):
        plan = pyinfra([machine], "--dry", "--json")
    with step(say, "deploying with gevulot_reboot=never", takes="about a minute"):
        never = pyinfra([machine], "-y", "--json", "--data", "gevulot_reboot=never")
    after_never = running_state(machine)
    record_arguments(machine)
    with step(say, "deploying, reboot included", takes="about five minutes"):
        first = pyinfra([machine], "-y", "--json", "-vvv", "--debug-all", "--diff")
    assert first.code == 0, first.output[-5000:]
    story = Story(host, bare, plan, never, after_never, first)
    return asdict(story)


STAGE = Stage("node", "two-boards", Path(__file__), play)


def deployed(registry: Path, say: Progress) -> tuple[Machine, Story]:
    """A machine of its own that was deployed from bare, and how."""
    kept = stage.ensure(STAGE, registry, say)
    return stage.start(kept, registry, say), Story.of(kept)


def treasure(machine: Machine) -> str:
    """Digests of what must never change by itself: key, secrets, rows."""
    return machine.ssh(
        "sha256sum </var/lib/gevulot/key/node.key; "
        "for secret in gevulot-db-password gevulot-psk-passphrase; do "
        "podman secret inspect --showsecret --format '{{.SecretData}}' $secret | sha256sum; done; "
        "podman exec gevulot-postgres psql -U gevulot -d gevulot -Atc "
        "'SELECT * FROM acl_whitelist ORDER BY 1; SELECT version, checksum FROM _sqlx_migrations ORDER BY 1'"
    ).stdout


def wait_for_node(machine: Machine) -> None:
    machine.ssh(
        "systemctl is-system-running --wait >/dev/null; n=0; "
        "until python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8888/ready\", timeout=5)' "
        "2>/dev/null; "
        "do n=$((n+1)); [ $n -lt 60 ] || { journalctl -b -u gevulot-node -n 30 --no-pager; exit 1; }; sleep 2; done"
    )
