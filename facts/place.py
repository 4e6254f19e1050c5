"""The place of a file to be written: what is there now, and whether it can be written and is mounted at boot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# `test -w` asks the kernel, which says no for a read-only file system and for an immutable file to root as well.
_COMMAND = r"""
[ "$(id -u)" = 0 ] && echo root
for path; do
  echo "place $path"
  parent=$path
  while :; do
    parent=${parent%/*}
    [ -n "$parent" ] || parent=/
    if [ -d "$parent" ]; then break; fi
    if [ -e "$parent" ] || [ -L "$parent" ]; then echo "blocked $parent"; continue 2; fi
  done
  home=$(readlink -f -- "$parent") || exit 1
  echo "mount $(stat -c %m -- "$home")"
  if [ -L "$path" ]; then echo link
  elif [ -d "$path" ]; then echo directory
  elif [ -f "$path" ]; then echo "file $(stat -c %h -- "$path")"; [ -w "$path" ] || echo "locked $path"
  elif [ -e "$path" ]; then echo special; fi
  if [ ! -w "$home" ]; then
    case ,$(findmnt -n -o OPTIONS -T "$home" 2>/dev/null), in *,ro,*) echo readonly ;; *) echo "locked $home" ;; esac
  fi
done
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A path: ``kind`` is ``link``, ``directory``, ``file``, ``special``, or empty where nothing is.

    ``mount`` is the mount point of the directory that is or will be its parent, ``names`` how many names (hard links)
    the file has. ``blocked`` is what stands in a directory's place, ``locked`` what cannot be changed on a file system
    that can be written (chattr +i), ``readonly`` whether the file system cannot be.
    """

    mount: str = "/"
    kind: str = ""
    names: int = 1
    blocked: str = ""
    locked: str = ""
    readonly: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Places(FactBase[dict[str, Place]]):
    """The place of each of these paths, in one command. Empty for a login that is not root, which cannot check this."""

    @staticmethod
    def default() -> dict[str, Place]:
        return {}

    def command(self, paths: tuple[str, ...] = ()) -> str:
        return f"sh -c {quote(_COMMAND)} places {' '.join(map(quote, paths))}"

    def process(self, output: list[str]) -> dict[str, Place]:
        read: dict[str, dict[str, Any]] = {}
        rest: dict[str, Any] = {}
        for line in output:
            word, _, value = line.partition(" ")
            match word:
                case "root":
                    continue
                case "place":
                    rest = read[value] = {}
                case "mount" | "blocked" | "locked":
                    rest.setdefault(word, value)
                case "file" if value.isdigit():
                    rest |= {"kind": "file", "names": int(value)}
                case "link" | "directory" | "special":
                    rest["kind"] = word
                case "readonly":
                    rest["readonly"] = True
                case _:
                    raise FactProcessError(f"places of files: unexpected line {line!r}")
        return {path: Place(**values) for path, values in read.items()} if "root" in output else {}
