"""The kernel modules that can drive the display functions of a host, and the modules that need them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# Devices first, then the tables of every installed kernel. An alias is a shell pattern (`pci:v000010DEd*sv*sd*bc03*`);
# a module with such a table may drive the device in any kernel that boots next, whatever drives it now.
_COMMAND = r"""
s=${PCIBIND_SYS:-/sys} m=${PCIBIND_MODULES:-/lib/modules}
{
  find "$s/devices" -name modalias -type f -exec grep -H '' {} + 2>/dev/null | sed -n 's|/modalias:| |;s|^|device |p'
  find "$s/devices" -name driver -type l -printf 'driver %h %l\n' 2>/dev/null
  find "$s"/bus/*/drivers/*/module -maxdepth 0 -type l -printf 'owner %h %l\n' 2>/dev/null
  for table in "$m"/*/modules.alias; do [ ! -r "$table" ] || { echo table; grep '^alias ' "$table"; }; done
  for table in "$m"/*/modules.dep; do [ ! -r "$table" ] || sed -n 's/^[^:]*:/needs &/p' "$table"; done
  echo end
} | awk -v root="$s" '
function module(file) { sub(/.*\//, "", file); sub(/[.]ko.*/, "", file); sub(/:$/, "", file); gsub(/-/, "_", file)
                        return file }
function regex(glob) { gsub(/[.+(){}|$]/, "[&]", glob); gsub(/[*]/, ".*", glob); gsub(/[?]/, ".", glob)
                       return "^" glob "$" }
function offered(name, text,    count, paths, each) {
  count = split(devices[text], paths, "\n")
  for (each = 2; each <= count; each++) match_of[name] = match_of[name] "\n" paths[each]
  if (text ~ /^pci:.*bc03/) wanted[name] = 1
}
function compare(name, glob, literal, list,    count, texts, each) {
  count = split(list, texts, "\n")
  for (each = 2; each <= count; each++)
    if (substr(texts[each], 1, length(literal)) == literal && texts[each] ~ regex(glob)) offered(name, texts[each])
}
$1 == "device" {
  path = substr($2, length(root) + 1); text = $3
  if (!(text in devices)) {
    bus = text; sub(/:.*/, "", bus); all[bus] = all[bus] "\n" text
    start = substr(text, 1, 13); near[start] = near[start] "\n" text
  }
  devices[text] = devices[text] "\n" path
}
$1 == "driver" { driver = $3; sub(/^.*bus\//, "bus/", driver); driven[substr($2, length(root) + 1)] = driver }
$1 == "owner" { owner[substr($2, length(root) + 2)] = module($3) }
$1 == "table" { tables++ }
$1 == "alias" && NF == 3 {
  literal = $2; sub(/[*?\[].*/, "", literal); bus = $2; sub(/:.*/, "", bus)
  if (length(literal) < 13) { if (bus in all) compare($3, $2, literal, all[bus]) }
  else if (substr(literal, 1, 13) in near) compare($3, $2, literal, near[substr(literal, 1, 13)])
}
$1 == "needs" {
  name = module($2)
  for (each = 3; each <= NF; each++) if (module($each) in wanted) needs[name] = needs[name] "\n" module($each)
}
function show(kind, name, list,    count, items, each) {
  count = split(list, items, "\n")
  for (each = 2; each <= count; each++) if (!((kind, name, items[each]) in printed)) {
    printed[kind, name, items[each]] = 1; print kind, name, items[each]
  }
}
$1 == "end" {
  for (name in needs) show("needs", name, needs[name])
  for (name in wanted) show("offers", name, match_of[name])
  for (name in needs) if (!(name in wanted)) show("offers", name, match_of[name])
  for (path in driven) if (driven[path] in owner) {
    name = owner[driven[path]]
    if (name in wanted || name in needs) print "drives", name, path
  }
  print "tables", tables + 0
}'
"""
_MODULE = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class DriverAliases:
    """The modules that any installed kernel offers for any display function (PCI class 03), and those that need one.

    ``offers`` and ``drives`` say, by a module's name with underscores, which devices it would take and which it has
    now, as their paths below /sys: of all buses, not of PCI alone. ``needs`` are the modules of that set that a module
    needs. ``tables`` is the number of kernels that were read; with none, nothing is known.
    """

    offers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    drives: Mapping[str, frozenset[str]] = field(default_factory=dict)
    needs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    tables: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "tables": self.tables,
            **{
                name: {module: sorted(each) for module, each in getattr(self, name).items()}
                for name in ("offers", "drives", "needs")
            },
        }


class DisplayDrivers(FactBase[DriverAliases | None]):
    """Which modules may take the host's display functions. Reads modules.alias itself: modprobe hides what is
    blacklisted, and knows the running kernel only. Needs no root.
    """

    def command(self) -> str:
        return f"sh -c {quote(_COMMAND)}"

    def process(self, output: list[str]) -> DriverAliases:
        relations: dict[str, dict[str, set[str]]] = {"offers": {}, "drives": {}, "needs": {}}
        for line in output:
            match line.split(" "):
                case ["tables", number] if number.isdigit():
                    offers, drives, needs = (
                        {name: frozenset(things) for name, things in modules.items()} for modules in relations.values()
                    )
                    return DriverAliases(offers, drives, needs, int(number))
                case [("offers" | "drives" | "needs") as kind, module, thing] if _MODULE.fullmatch(module):
                    relations[kind].setdefault(module, set()).add(thing)
                case _:
                    raise FactProcessError(f"the drivers of display functions cannot be read: unexpected line {line!r}")
        raise FactProcessError("the drivers of display functions cannot be read: the answer ends before its last line")
