"""The system as a whole: what failed since a deploy began, as against what had failed before, by units of others."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from shlex import quote

from deploys.assessment.checks import Check
from deploys.manifest import FAILED_UNITS, PCIBIND_UNIT


def is_of_a_node(unit: str) -> bool:
    """Whether a deploy makes the unit."""
    return unit.startswith("gevulot-") or unit == PCIBIND_UNIT


def new_failures(failed: Iterable[str], before: Iterable[str]) -> list[str]:
    """The units that failed, without those of others that had failed before."""
    known = {unit for unit in before if not is_of_a_node(unit)}
    return [unit for unit in failed if unit not in known]


def check(state: str, failed: list[str], before: Iterable[str]) -> Check:
    """Whether all is up, or was as little before; ``state`` is what systemd says of the system."""
    if state == "degraded" and failed and not new_failures(failed, before):
        return Check("system", f"degraded, as before the run: {', '.join(failed)}", None)
    return Check("system", f"{state}{': ' if failed else ''}{', '.join(failed)}", state == "running", "running")


def remember(failed: Iterable[str]) -> str:
    """The command by which the next deploy knows what failed in this one."""
    words = " ".join(map(quote, failed))
    if not words:
        return f"rm -f {FAILED_UNITS}"
    directory, new = posixpath.dirname(FAILED_UNITS), f"{FAILED_UNITS}.new"
    return f"mkdir -p -m 700 {directory} && printf '%s\\n' {words} >{new} && mv {new} {FAILED_UNITS}"
