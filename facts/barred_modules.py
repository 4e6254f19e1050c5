"""Lines of modprobe's files that keep modules from being loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# A file hides those of its name in later directories (modprobe.d(5)). `install NAME /bin/false` runs that instead.
_COMMAND = r"""
names=' '
for directory in /etc /run /usr/local/lib /usr/lib /lib; do
  for file in "$1$directory"/modprobe.d/*.conf; do
    [ -e "$file" ] || continue
    case $names in *" ${file##*/} "*) continue ;; esac
    names="$names${file##*/} "
    [ ! -f "$file" ] || awk '
      $1 == "blacklist" { print "blacklist", $2, FNR, FILENAME }
      $1 == "install" && $3 ~ /^(\/usr)?(\/s?bin\/)?(true|false|:|nologin)$/ { print "install", $2, FNR, FILENAME }
    ' "$file"
  done
done
true
"""


@dataclass(frozen=True, slots=True)
class ModuleBar:
    """One line: ``blacklist`` or ``install``, the module with underscores, and ``FILE:LINE``."""

    kind: str
    module: str
    place: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class BarredModules(FactBase[tuple[ModuleBar, ...]]):
    """The modules that modprobe's files keep from being loaded, whatever the kernel's line says."""

    @staticmethod
    def default() -> tuple[ModuleBar, ...]:
        return ()

    def command(self, root: str = "") -> str:
        return f"sh -c {quote(_COMMAND)} barred-modules {quote(root)}"

    def process(self, output: list[str]) -> tuple[ModuleBar, ...]:
        bars = []
        for line in output:
            match line.split(" ", 3):
                case ["blacklist" | "install" as kind, module, number, file] if number.isdecimal():
                    bars.append(ModuleBar(kind, module.replace("-", "_"), f"{file}:{number}"))
                case _:
                    raise FactProcessError(f"barred modules: expected KIND MODULE LINE FILE, found {line!r}")
        return tuple(bars)
