"""What a boot needs on a host: the udev rule and its script, a hook of the initramfs, the units.

Data that `pcibind setup`, a package or a deploy installs; no boot imports this module.
"""

from __future__ import annotations

from pathlib import Path

RULE_PATH = "/etc/udev/rules.d/05-pcibind.rules"
SCRIPT_PATH = "/usr/local/lib/pcibind/early"
INITRAMFS_HOOK_PATH = "/etc/initramfs-tools/hooks/pcibind"
DRACUT_PATH = "/etc/dracut.conf.d/pcibind.conf"

UNIT = "pcibind.service"
"""The unit that binds at each boot; it pulls the others in."""
WANTED_BY = "sysinit.target"

_UNITS_PATH = "/etc/systemd/system"
UNIT_PATHS = tuple(
    f"{_UNITS_PATH}/{name}"
    for name in (UNIT, "pcibind-hotplug.path", "pcibind-hotplug.service", "pcibind-off.service")
)
UNIT_PATH = UNIT_PATHS[0]

COMMAND = "/usr/bin/python3 -I -S /usr/local/lib/pcibind/__main__.py"
"""How pcibind is run where it lies as a directory of its own, without site-packages."""

_DATA = Path(__file__).parents[1] / "data"


def rule() -> str:
    """The udev rule, for RULE_PATH, mode 0644."""
    return _text("05-pcibind.rules")


def script() -> str:
    """The script that the rule runs, for SCRIPT_PATH, mode 0755."""
    return _text("early.sh")


def initramfs_hook() -> str:
    """The hook of initramfs-tools, for INITRAMFS_HOOK_PATH, mode 0755."""
    return _text("initramfs-hook.sh")


def dracut() -> str:
    """The configuration of dracut, for DRACUT_PATH, mode 0644."""
    return _text("dracut.conf")


def units(command: str = COMMAND) -> dict[str, str]:
    """The text of every unit, by its path; `command` is how pcibind is run, quoted for systemd.

    The boot unit comes before sysinit.target, so before every ordinary unit; what it comes after is
    early itself, so that there is no cycle. The time-out is far above the sum of the bounded
    accesses.
    """
    sandbox = _text("sandbox.conf")
    # With pcibind=off, the modules that a blacklist keeps away are loaded.
    loading = (
        sandbox.replace("=CAP_SYS_PTRACE", "=CAP_SYS_MODULE CAP_SYS_PTRACE")
        .replace("ProtectKernelModules=yes\n", "")
        .replace("@resources\n", "@resources\nSystemCallFilter=@module\n")
    )
    texts = {}
    for path in UNIT_PATHS:
        name = path.rpartition("/")[2]
        lines = loading if name == "pcibind-off.service" else sandbox
        texts[path] = _text(name).replace("@SANDBOX@\n", lines).replace("@COMMAND@", command)
    return texts


def former() -> list[str]:
    """Digests (`setup.digest`) of the boot files of former versions."""
    return [line.split()[0] for line in _text("former.sha256").splitlines()]


def _text(name: str) -> str:
    return (_DATA / name).read_text(encoding="utf-8")
