"""What an earlier run rebooted a host for, as long as that has not come true."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase

_COMMAND = r"""
[ -e "$1/before.json" ] && echo deployed
[ -f "$1/reboot.json" ] && head -c 20000 "$1/reboot.json"
true
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A reboot: why it was due, when it was (in words of the operator's clock), and the digest of what decided it."""

    reasons: tuple[str, ...]
    when: str
    digest: str


@dataclass(frozen=True, slots=True)
class Attempts:
    """Whether a deploy was here before, and its last reboot that is on record."""

    deployed: bool = False
    last: Attempt | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class RebootAttempts(FactBase[Attempts]):
    """The reboot on record below ``directory``. A record that cannot be read is none: it only saves a reboot."""

    @staticmethod
    def default() -> Attempts:
        return Attempts()

    def command(self, directory: str = "/var/lib/gevulot-deploy") -> str:
        return f"sh -c {quote(_COMMAND)} attempt {quote(directory)}"

    def process(self, output: list[str]) -> Attempts:
        deployed = output[:1] == ["deployed"]
        try:
            each = json.loads("\n".join(output[deployed:]))
            last = Attempt(tuple(map(str, each["reasons"])), str(each["when"]), str(each["digest"]))
        except (ValueError, TypeError, KeyError):
            last = None
        return Attempts(deployed, last)
