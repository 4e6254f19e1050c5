"""Early files: they set the overrides before any driver is loaded, in the initramfs and after it.

Data that `pcibind setup`, a package or a deploy installs; no boot imports this module.
"""

from __future__ import annotations

from pathlib import Path

RULE_PATH = "/etc/udev/rules.d/05-pcibind.rules"
SCRIPT_PATH = "/usr/local/lib/pcibind/early"
INITRAMFS_HOOK_PATH = "/etc/initramfs-tools/hooks/pcibind"
DRACUT_PATH = "/etc/dracut.conf.d/pcibind.conf"

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


def former() -> list[str]:
    """Digests (`setup.digest`) of the boot files of former versions."""
    return [line.split()[0] for line in _text("former.sha256").splitlines()]


def _text(name: str) -> str:
    return (_DATA / name).read_text(encoding="utf-8")
