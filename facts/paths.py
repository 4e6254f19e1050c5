"""Which paths there are."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class ExistingPaths(FactBase[list[str]]):
    """Which of the named paths exist, links that lead nowhere included."""

    @staticmethod
    def default() -> list[str]:
        return []

    def command(self, paths: tuple[str, ...] = ()) -> str:
        script = 'for path in "$@"; do if [ -e "$path" ] || [ -L "$path" ]; then echo "$path"; fi; done'
        return f"sh -c {quote(script)} existing {' '.join(quote(path) for path in paths)}"

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]


class EmptyDirectories(FactBase[list[str]]):
    """Which of the named directories exist and have nothing in them."""

    @staticmethod
    def default() -> list[str]:
        return []

    def command(self, directories: tuple[str, ...] = ()) -> str:
        # By itself, find would take the working directory.
        words = " ".join(quote(directory) for directory in directories or ("/nonexistent",))
        return f"find {words} -maxdepth 0 -type d -empty 2>/dev/null || true"

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]
