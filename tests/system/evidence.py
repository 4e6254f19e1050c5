"""The evidence: which checks passed on which platform, kept as a table in `docs/evidence.md`."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.lab import cache, stage
from tests.lab.machine import Machine
from tests.lab.platform import PLATFORMS

PATH: Final = stage.ROOT / "docs/evidence.md"
CHECKS: Final = ("bare", "deployed", "second run", "newer kernel", "power cut", "program", "undone")
"""What is done to a host of each platform, in this order."""

_HEAD: Final = ("platform", *CHECKS, "kernel", "systemd", "Podman", "date", "code")
_CODE: Final = ("deploys", "facts", "helpers/pcibind/src")
_TEXT: Final = """\
# Evidence

What `make worlds` checked on booted machines. `python -m tests.lab list-worlds` describes the platforms. **bare**: the
machine is what its platform claims. **deployed**: a deploy succeeds, and every row of its table passes. **second run**:
it changes nothing. **newer kernel**: the package manager installs one, it boots, and the status reports no problem,
without another deploy. **power cut**: the node verifies again after it. **program**: it runs in a virtual machine with
both boards, by KVM. **undone**: the undo restores what its record has. "yes" means that the check passed, "-" that it
was not done. `kernel` is the last one that ran. `code` is a digest of what was deployed.

{table}
"""


def code() -> str:
    """Return a digest of the code that a deploy runs."""
    return cache.digest(*(stage.digest_of(stage.ROOT / each) for each in _CODE))[:8]


def rows(text: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table by their platform, each by its columns."""
    rows_by_machine = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == len(_HEAD) and cells[0] in PLATFORMS:
            rows_by_machine[cells[0]] = dict(zip(_HEAD, cells, strict=True))
    return rows_by_machine


def document(platforms: Mapping[str, Mapping[str, str]]) -> str:
    """Return the document with a row for each platform with a run, in the order of the platforms."""
    lines = [_HEAD, tuple("---" for _ in _HEAD)]
    lines += [tuple(platforms[name].get(each, "-") for each in _HEAD) for name in PLATFORMS if name in platforms]
    return _TEXT.format(table="\n".join(f"| {' | '.join(line)} |" for line in lines))


def support(text: str) -> str:
    """Return the table of docs/support.md: the platforms that were booted, by the rows of the evidence."""
    lines = ["| booted in the lab | versions | checks that passed | on |", "|---|---|---|---|"]
    for name, row in rows(text).items():
        passed = [check for check in CHECKS if row[check] == "yes"]
        passed_checks = "all" if len(passed) == len(CHECKS) else ", ".join(passed) or "none"
        kinds = f"kernel {row['kernel']}, systemd {row['systemd']}, Podman {row['Podman']}"
        lines.append(f"| `{name}`: {PLATFORMS[name].purpose} | {kinds} | {passed_checks} | {row['date']} |")
    return "\n".join(lines)


def versions(machine: Machine) -> dict[str, str]:
    """Return what the machine runs."""
    kernel, systemd, podman = machine.ssh(
        "uname -r; systemctl --version | head -n1; podman --version 2>/dev/null || echo none"
    ).stdout.splitlines()
    return {"kernel": kernel, "systemd": systemd.split()[1], "Podman": podman.split()[-1]}


def note(platform: str, machine_says: Mapping[str, str], passed: tuple[str, ...], path: Path = PATH) -> None:
    """Write a platform's row: the checks that passed, on this day, with this code."""
    noted = rows(path.read_text()) if path.exists() else {}
    row = {"platform": platform, **machine_says, "date": time.strftime("%Y-%m-%d"), "code": code()}
    noted[platform] = row | {check: "yes" if check in passed else "-" for check in CHECKS}
    path.write_text(document(noted))
    renew_support(path.parent)


def renew_support(docs: Path) -> None:
    """Write the table of platforms in support.md anew, from the evidence beside it."""
    page = docs / "support.md"
    if page.exists():
        table = re.compile(r"^\| booted in the lab \|.*\n(\|.*\n)*", re.MULTILINE)
        made = support((docs / PATH.name).read_text())
        page.write_text(table.sub(lambda _: f"{made}\n", page.read_text()))


def missing(text: str) -> list[str]:
    """Return the platforms without a row."""
    noted = rows(text)
    return [name for name in PLATFORMS if name not in noted]


def gaps(text: str) -> dict[str, list[str]]:
    """Return for each platform with a row those checks that did not pass."""
    open_ = {name: [check for check in CHECKS if row[check] != "yes"] for name, row in rows(text).items()}
    return {name: checks for name, checks in open_.items() if checks}


def stale(text: str) -> list[str]:
    """Return the platforms whose run was of other code than that of today."""
    return [name for name, row in rows(text).items() if row["code"] != code()]


if __name__ == "__main__":
    words = "Write the table of docs/support.md from docs/evidence.md."
    argparse.ArgumentParser(prog="python -m tests.system.evidence", description=words).parse_args()
    renew_support(PATH.parent)
