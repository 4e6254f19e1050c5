"""The output of a program."""

from __future__ import annotations

from pyinfra.api import FactBase


class FirstLine(FactBase[str]):
    """The first line that a command prints, or an empty text."""

    @staticmethod
    def default() -> str:
        return ""

    def command(self, program: str) -> str:
        return program

    def process(self, output: list[str]) -> str:
        return output[0].strip()
