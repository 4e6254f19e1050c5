"""What on a host loads or needs a graphics driver at a boot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# Of a unit only its name and its programs are printed: arguments may hold secrets.
_COMMAND = r"""
words=$1
for file in /etc/modules /etc/modules-load.d/*.conf /run/modules-load.d/*.conf /usr/local/lib/modules-load.d/*.conf \
  /usr/lib/modules-load.d/*.conf; do
  [ ! -f "$file" ] || awk '$1 ~ /^[A-Za-z0-9_-]+$/ { print "load", $1, FILENAME }' "$file"
done
command -v systemctl >/dev/null || exit 0
units=$(systemctl list-unit-files --no-legend --no-pager --plain --type=service --state=enabled,enabled-runtime \
  2>/dev/null | sed -n 's/^\([^ ]*[^@ ]\.service\) .*/\1/p')
[ -z "$units" ] || systemctl show --no-pager -p Id -p Result -p ConditionResult -p ExecStart $units 2>/dev/null |
  awk -v words="$words" '
    function close_unit() { if (tolower(id programs) ~ words) print "unit", id, good && holds ? "runs" : "-", programs
                            id = ""; programs = ""; good = holds = 0 }
    /^$/ { if (id) close_unit(); next }
    /^Id=/ { id = substr($0, 4) }
    $0 == "Result=success" { good = 1 }
    $0 == "ConditionResult=yes" { holds = 1 }
    /^ExecStart=/ && match($0, /path=[^ ]+/) && !/ignore_errors=yes/ {
      path = substr($0, RSTART + 5, RLENGTH - 5)
      programs = programs (programs ? " " : "") path }
    END { if (id) close_unit() }'
display=$(systemctl show --value -p Id -p LoadState display-manager.service 2>/dev/null | tr '\n' ' ')
case "$(systemctl get-default 2>/dev/null) $display" in
  "graphical.target "*" loaded "*) echo "display ${display%% *}" ;;
esac
true
"""


@dataclass(frozen=True, slots=True)
class DriverService:
    """An enabled service: its programs, and whether its last start succeeded with its conditions met."""

    name: str
    runs: bool
    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DriverUsage:
    """Modules that a file loads at boot (file → names with underscores), services, and the display manager if any."""

    loads: dict[str, tuple[str, ...]]
    units: tuple[DriverService, ...] = ()
    display: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class DriverUsers(FactBase[DriverUsage]):
    """What loads modules at boot, and the enabled services whose name or program has one of these words in it."""

    @staticmethod
    def default() -> DriverUsage:
        return DriverUsage({})

    def command(self, words: tuple[str, ...]) -> str:
        return f"sh -c {quote(_COMMAND)} users {quote('|'.join(words))}"

    def process(self, output: list[str]) -> DriverUsage:
        loads: dict[str, tuple[str, ...]] = {}
        units = []
        display = ""
        for line in output:
            match line.split(" "):
                case ["load", module, *words] if words:
                    file = " ".join(words)
                    loads[file] = (*loads.get(file, ()), module.replace("-", "_"))
                case ["unit", name, state, *programs]:
                    units.append(DriverService(name, state == "runs", tuple(filter(None, programs))))
                case ["display", name]:
                    display = name
                case _:
                    raise FactProcessError(f"users of graphics drivers: unexpected line {line!r}")
        return DriverUsage(loads, tuple(units), display)
