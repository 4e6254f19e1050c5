"""Options of vfio-pci in the files of modprobe."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# A line that ends in a backslash goes on with the next one.
_COMMAND = r"""
for file in /etc/modprobe.d/*.conf /run/modprobe.d/*.conf /usr/local/lib/modprobe.d/*.conf \
  /usr/lib/modprobe.d/*.conf; do
  [ ! -f "$file" ] || sed -e :a -e '/\\$/{N;s/\\\n//;ba' -e '}' "$file" |
    awk -v file="$file" '$1 == "options" && $2 ~ /^vfio[-_]pci$/ { for (n = 3; n <= NF; n++) print $n, file }'
done
true
"""


class VfioOptions(FactBase[dict[str, tuple[str, ...]]]):
    """The options that modprobe's files give vfio-pci: file → ``ids=1000:0072`` and others."""

    @staticmethod
    def default() -> dict[str, tuple[str, ...]]:
        return {}

    def command(self) -> str:
        return f"sh -c {quote(_COMMAND)}"

    def process(self, output: list[str]) -> dict[str, tuple[str, ...]]:
        options: dict[str, tuple[str, ...]] = {}
        for line in output:
            option, space, file = line.partition(" ")
            if not space:
                raise FactProcessError(f"options of vfio-pci: expected OPTION FILE, found {line!r}")
            options[file] = (*options.get(file, ()), option)
        return options
