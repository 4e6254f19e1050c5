"""The last reboot by a deploy, for as long as it did not have the expected effect."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase

from facts import state_directory

_COMMAND = rf"""
{state_directory.CHOSEN}
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
[ -e "$directory/before.json" ] && echo deployed
[ -f "$directory/reboot.json" ] && head -c 20000 "$directory/reboot.json"
true
"""


@dataclass(frozen=True, slots=True)
class RebootAttempt:
    """A reboot: its reasons, its time (as text, by the operator's clock), and the digest of what decided it.

    ``boot`` is the identifier of the boot that it was to end.
    """

    reasons: tuple[str, ...]
    when: str
    digest: str
    boot: str = ""


@dataclass(frozen=True, slots=True)
class RebootHistory:
    """Whether the host was deployed before, the last recorded reboot, and the identifier of the current boot."""

    deployed: bool = False
    last: RebootAttempt | None = None
    boot: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class RebootAttempts(FactBase[RebootHistory]):
    """The reboot on record. An unreadable record counts as none: it only saves a reboot.

    ``directories`` are those of the record: today's, and the one of earlier versions.
    """

    @staticmethod
    def default() -> RebootHistory:
        return RebootHistory()

    def command(self, directories: tuple[str, str]) -> str:
        return f"sh -c {quote(_COMMAND)} attempt {' '.join(map(quote, directories))}"

    def process(self, output: list[str]) -> RebootHistory:
        boot = output[0].removeprefix("boot ") if output[0].startswith("boot ") else ""
        rest = output[1:] if boot else output
        deployed = rest[:1] == ["deployed"]
        try:
            each = json.loads("\n".join(rest[deployed:]))
            words = str(each["when"]), str(each["digest"]), str(each.get("boot", ""))
            last = RebootAttempt(tuple(map(str, each["reasons"])), *words)
        except (ValueError, TypeError, KeyError):
            last = None
        return RebootHistory(deployed, last, boot)
