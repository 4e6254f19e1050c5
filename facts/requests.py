"""Which boards pcibind's configuration on a node asks for."""

from __future__ import annotations

from pyinfra.api import FactBase

from pcibind.read.files import Paths

_COMMAND = (
    f'for file in {Paths().configuration}/*.toml; do [ -e "$file" ] || continue; echo "file $file"; '
    # A last line without an end gets one, so that the next file begins a line.
    "sed 's/^/text /;$a\\' \"$file\"; done"
)


class BoardRequests(FactBase[dict[str, str]]):
    """The files of /etc/pcibind: path → content. Empty where there is none."""

    @staticmethod
    def default() -> dict[str, str]:
        return {}

    def command(self) -> str:
        return _COMMAND

    def process(self, output: list[str]) -> dict[str, str]:
        files: dict[str, str] = {}
        path = ""
        for line in output:
            kind, _, rest = line.partition(" ")
            if kind == "file":
                path = rest
                files[path] = ""
            elif kind == "text":
                files[path] += f"{rest}\n"
        return files
