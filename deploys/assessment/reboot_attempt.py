"""A reboot that did not have its effect: how it is recorded, and when another one would not help either. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256

from deploys import library
from deploys.manifest import STATE_DIRECTORY, TEMPLATES
from facts.attempt import RebootHistory
from facts.installed_kernels import BootableKernels
from facts.kernel import CommandLines
from facts.untrusted import printable

FILE = f"{STATE_DIRECTORY}/reboot.json"
_LENGTH = 300


@cache
def _of_this_deploy() -> str:
    """The digest of what this version of the deploy gives to a boot."""
    files = [path for name in ("default", "modprobe.d", "modules-load.d", "udev")
             for path in sorted((TEMPLATES / "etc" / name).rglob("*.j2"))]  # fmt: skip
    texts = b"".join(path.read_bytes() for path in files)
    return sha256(texts + library.digest(library.read_tree()).encode()).hexdigest()


def digest(
    lines: CommandLines, wanted: tuple[str, ...], boards: tuple[str, ...], kernels: BootableKernels | None
) -> str:
    """The digest of all that decides a boot and that somebody may change without one."""
    entry = lines.boots
    inputs = (
        _of_this_deploy(),
        *(wanted, boards),
        (entry.kernel, entry.arguments) if entry else lines.configured,
        sorted(kernels.stamps.items()) if kernels else (),
    )
    return sha256(json.dumps(inputs).encode()).hexdigest()


def render(reasons: list[str], digest: str, boot: str) -> str:
    """The record's text, of one line. ``boot`` identifies the boot that ends."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return json.dumps({"reasons": reasons, "when": when, "digest": digest, "boot": boot})


def refusal(attempts: RebootHistory, reasons: list[str], digest: str) -> str | None:
    """Why another reboot for the same reasons would not help, or ``None``.

    A host that still runs the boot which the last one was to end has not been rebooted.
    """
    last = attempts.last
    if last is None or (last.boot and last.boot == attempts.boot):
        return None
    same = [reason for reason in reasons if reason in last.reasons]
    if not same or digest != last.digest:
        return None
    repeated = printable("; ".join(same), _LENGTH)
    return (
        f"the reboot of {printable(last.when, 40)} was for this and did not help: {repeated}; since then the boot "
        "entry, its kernel, its images and the settings have not changed, so another reboot would not help either. "
        "See `journalctl -k -b`, and check that the firmware starts this disk's boot loader and has VT-d or AMD-Vi on. "
        f"To try again anyway, reboot by hand or remove {FILE}."
    )
