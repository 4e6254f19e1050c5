"""Plain files: their attributes, and the text of short ones."""

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
class FileState:
    """Mode in octal digits, owner as ``user:group``, and the content's SHA-256 in hexadecimal digits."""

    mode: str
    owner: str
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PlainFiles(FactBase[dict[str, FileState]]):
    """The state of each of these files, in one command. Missing paths, links and directories are left out."""

    @staticmethod
    def default() -> dict[str, FileState]:
        return {}

    def command(self, paths: tuple[str, ...]) -> str:
        return f"sh -c {quote(_COMMAND)} files {' '.join(map(quote, paths))}"

    def process(self, output: list[str]) -> dict[str, FileState]:
        states = {}
        for line in output:
            match line.split(None, 4):
                case [mode, owner, digest, "-", path]:
                    states[path] = FileState(mode, owner, digest)
                case _:
                    raise FactProcessError(f"a file's state is {line!r}, expected MODE OWNER DIGEST - PATH")
        return states


_TEXTS = r"""
for file; do
  [ -f "$file" ] || continue
  echo "file $file"
  [ ! -L "$file" ] || echo "link $(readlink -f -- "$file")"
  head -c 4096 -- "$file" | sed 's/^/text /;$a\'
done
"""


@dataclass(frozen=True, slots=True)
class FileText:
    """A short text file: its first 4,096 bytes, and the target where it is a link."""

    content: str
    link: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class FileTexts(FactBase[dict[str, FileText]]):
    """The text of each of these files that exists, in one command."""

    @staticmethod
    def default() -> dict[str, FileText]:
        return {}

    def command(self, paths: tuple[str, ...] = ()) -> str:
        return f"sh -c {quote(_TEXTS)} texts {' '.join(map(quote, paths))}"

    def process(self, output: list[str]) -> dict[str, FileText]:
        texts: dict[str, FileText] = {}
        path = ""
        for line in output:
            kind, _, rest = line.partition(" ")
            if kind == "file":
                path = rest
                texts[path] = FileText("")
            elif kind == "link" and path:
                texts[path] = FileText(texts[path].content, rest)
            elif kind == "text" and path:
                texts[path] = FileText(f"{texts[path].content}{rest}\n", texts[path].link)
            else:
                raise FactProcessError(f"texts of files: expected file, link or text, found {line!r}")
        return texts
