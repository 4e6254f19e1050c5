"""The parts of a Gevulot node that a host already has: units, containers, volumes, and whether a deploy made them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts import state_directory

# Arguments: the directory of the record, and its former one; a word in the names of the node's volumes; then triples of
# a unit, the file that a deploy makes it from, and a text that the file of any deploy has. Of a file of others only the
# places of its volumes are printed: it may hold passwords.
_COMMAND = (
    state_directory.CHOSEN
    + r"""
archive=$directory/before.tar
[ -e "$directory/before.json" ] && echo record
mine() {
  [ -e "$directory/before.json" ] && [ ! -L "$1" ] && grep -qsF -e "$2" "$1" &&
    ! { [ -e "$archive" ] && ! LC_ALL=C tar -C / --compare -f "$archive" "${1#/}" 2>&1 |
      grep -qv ': Mod time differs$'; }; }
volumes() { sed -n "s/^ *Volume *= *\([^ ]*\).*/volume $1 \1/p" "$2"; }
word=$1; shift
units= files= names= pattern=
while [ $# -ge 3 ]; do
  unit=$1 file=$2 mark=$3; shift 3; units="$units $unit"; files="$files $file"
  case $file in *.container) name=${unit%.service}; names="$names $name"; pattern="$pattern${pattern:+\\|}$name" ;; esac
  real=$(readlink -f -- "${file%/*}") && echo "real $unit $real/${file##*/}"
  if [ ! -e "$file" ] && [ ! -L "$file" ]; then echo "file $unit missing $file"
  elif mine "$file" "$mark"; then echo "file $unit ours $file"
  else echo "file $unit other $file"; [ -f "$file" ] && volumes "$unit" "$file"; fi
done
systemctl show --property=Id,Names,LoadState,ActiveState,FragmentPath,SourcePath $units 2>/dev/null | sed 's/^/show /'
for place in /etc/containers/systemd /run/containers/systemd /usr/share/containers/systemd \
  /usr/local/share/containers/systemd; do
  [ -d "$place" ] || continue
  find -L "$place" -name '*.container' -type f 2>/dev/null | while read -r file; do
    case " $files " in *" $file "*) continue ;; esac
    name=$(sed -n "s/^ *\(ContainerName\|ServiceName\) *= *\($pattern\) *\$/\2/p" "$file" | head -n1)
    [ -n "$name" ] || continue
    echo "also $name.service $file"; volumes "$name.service" "$file"; done
done
if command -v podman >/dev/null; then
  timeout 15 podman container inspect --format "container {{.Name}} {{.State.Status}} \
{{index .Config.Labels \"PODMAN_SYSTEMD_UNIT\"}}{{range .Mounts}}
mounted {{.Destination}} {{.Source}}{{end}}" $names 2>/dev/null
  timeout 15 podman volume ls --format '{{.Name}} {{.Mountpoint}}' 2>/dev/null | grep -i -F -e "$word" |
    while read -r name place; do
      [ -e "$place/PG_VERSION" ] && echo "data $name $place/ database"
      [ -e "$place/data/PG_VERSION" ] && echo "data $name $place/data/ database"
      [ -e "$place/node.key" ] && echo "data $name $place/ key"; done
fi
echo end
"""
)


@dataclass(frozen=True, slots=True)
class ExistingUnit:
    """One of the node's units. ``file`` is what a deploy makes it from: ``ours``, ``other``, or ``missing``.

    ``real`` is the path with the links of its directories resolved, as Quadlet names it. ``source`` is what systemd
    made it from, ``volumes`` the ``Volume=`` of a file of others, ``also`` other Quadlets
    that make a unit or a container of its name.
    """

    name: str
    path: str
    file: str
    load: str = ""
    active: str = ""
    source: str = ""
    volumes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    real: str = ""

    @property
    def is_from_its_file(self) -> bool:
        """Whether systemd made it from the file of a deploy."""
        return self.source in (self.path, self.real)


@dataclass(frozen=True, slots=True)
class ExistingContainer:
    """A container of Podman's with a name of the node's, the unit that started it, and its mounts: place → source."""

    name: str
    status: str
    unit: str
    mounts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ExistingNode:
    """What there is. ``data`` are volumes of Podman's: name, directory, and ``database`` or ``key``."""

    record: bool = False
    units: tuple[ExistingUnit, ...] = ()
    containers: tuple[ExistingContainer, ...] = ()
    data: tuple[tuple[str, str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse(output: list[str]) -> ExistingNode:
    """The lines of the command. Raises ``ValueError`` when they end too early or are of another kind."""
    if not output or output[-1] != "end":
        raise ValueError("the answer ended too early")
    files: dict[str, tuple[str, str]] = {}
    real: dict[str, str] = {}
    volumes: dict[str, list[str]] = {}
    also: dict[str, list[str]] = {}
    shown: dict[str, dict[str, str]] = {}
    values: dict[str, str] = {}
    containers: list[tuple[str, str, str]] = []
    mounts: list[list[tuple[str, str]]] = []
    data = []
    for line in output[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "show":
            key, _, value = rest.partition("=")
            if key in values or not rest:
                values = {}
            if rest:
                values[key] = value
            # By all its names: a unit of others may have one of ours as its alias.
            for name in value.split() if key in ("Id", "Names") else ():
                shown[name] = values
        elif kind == "file":
            unit, state, path = rest.split(" ", 2)
            files[unit] = (state, path)
        elif kind == "real":
            unit, _, path = rest.partition(" ")
            real[unit] = path
        elif kind in ("volume", "also"):
            unit, _, text = rest.partition(" ")
            (volumes if kind == "volume" else also).setdefault(unit, []).append(text)
        elif kind == "container":
            name, status, unit = (*rest.split(" ", 2), "", "")[:3]
            containers.append((name.lstrip("/"), status, "" if unit == "<no value>" else unit.strip()))
            mounts.append([])
        elif kind == "mounted" and mounts:
            place, _, source = rest.partition(" ")
            mounts[-1].append((place, source))
        elif kind == "data":
            name, _, more = rest.partition(" ")
            path, _, what = more.rpartition(" ")
            data.append((name, path.rstrip("/"), what))
    return ExistingNode(
        record="record" in output,
        units=tuple(_unit(name, *each, shown.get(name, {}), volumes, also, real) for name, each in files.items()),
        containers=tuple(
            ExistingContainer(*each, tuple(mounted)) for each, mounted in zip(containers, mounts, strict=True)
        ),
        data=tuple(data),
    )


def _unit(
    name: str,
    state: str,
    path: str,
    shown: dict[str, str],
    volumes: dict[str, list[str]],
    also: dict[str, list[str]],
    real: dict[str, str],
) -> ExistingUnit:
    return ExistingUnit(
        name,
        path,
        state,
        load=shown.get("LoadState", ""),
        active=shown.get("ActiveState", ""),
        source=shown.get("SourcePath") or shown.get("FragmentPath", ""),
        volumes=tuple(volumes.get(name, ())),
        also=tuple(also.get(name, ())),
        real=real.get(name, ""),
    )


class ExistingNodeParts(FactBase[ExistingNode]):
    """What of a node there is.

    ``units`` are triples: a unit, its file, and a text that the file of any deploy has. ``word`` is in the names of the
    node's volumes, ``directories`` are those of the record: today's, and the one of earlier versions.
    """

    @staticmethod
    def default() -> ExistingNode:
        return ExistingNode()

    def command(self, units: tuple[tuple[str, str, str], ...], word: str, directories: tuple[str, str]) -> str:
        words = (*directories, word, *(each for unit in units for each in unit))
        return f"sh -c {quote(_COMMAND)} node-parts {' '.join(map(quote, words))}"

    def process(self, output: list[str]) -> ExistingNode:
        try:
            return parse(output)
        except (ValueError, TypeError) as error:
            raise FactProcessError(f"what of a node exists already cannot be read: {error}") from error
