"""Plain files, as far as a deploy decides about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

_COMMAND = r"""
for file; do
  [ -f "$file" ] && [ ! -L "$file" ] || continue
  state=$(stat -c '%a %U:%G' -- "$file") && sum=$(sha256sum <"$file") || exit 1
  printf '%s %s %s\n' "$state" "$sum" "$file"
done
"""


@dataclass(frozen=True, slots=True)
class State:
    """Mode in octal digits, owner as ``user:group``, and the content's SHA-256 in hexadecimal digits."""

    mode: str
    owner: str
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PlainFiles(FactBase[dict[str, State]]):
    """The state of each of these files, in one command. What is not there, or is a link or a directory, is left out."""

    @staticmethod
    def default() -> dict[str, State]:
        return {}

    def command(self, paths: tuple[str, ...] = ("/etc/containers/systemd/gevulot-node.container",)) -> str:
        return f"sh -c {quote(_COMMAND)} files {' '.join(map(quote, paths))}"

    def process(self, output: list[str]) -> dict[str, State]:
        found = {}
        for line in output:
            match line.split(None, 4):
                case [mode, owner, digest, "-", path]:
                    found[path] = State(mode, owner, digest)
                case _:
                    raise FactProcessError(f"a file's state is {line!r}, expected MODE OWNER DIGEST - PATH")
        return found
