"""Whether GRUB's menu says what its sources say now."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase

_COMMAND = r"""
for menu in /boot/grub/grub.cfg /boot/grub2/grub.cfg; do
  [ -e "$menu" ] || continue
  newer=$(find /etc/default/grub /etc/default/grub.d -newercm "$menu" 2>/dev/null | head -n1)
  # A directory that lost a file has a newer change time; one that is gone has left its own directory a newer one.
  [ -n "$newer" ] || [ -d /etc/default/grub.d ] || newer=$(find /etc/default -maxdepth 0 -newercm "$menu")
  [ -n "$newer" ] && echo "$menu is older than $newer"
done
true
"""


class StaleMenu(FactBase[list[str]]):
    """GRUB's menus that are older than what they are made from, a sentence for each. Empty when all are current."""

    @staticmethod
    def default() -> list[str]:
        return []

    def command(self) -> str:
        return f"sh -c {quote(_COMMAND)}"

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]
