"""The storage directory before a deploy writes to it: its path, its file system, its content, its users."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# $1: the directory, $2: the unit file that names the storage of the deployed node, then the directories in it.
_COMMAND = r"""
directory=$1; quadlet=$2; shift 2
kind() {
  if [ -L "$1" ]; then if [ -e "$1" ]; then if [ -d "$1" ]; then echo link; else echo file; fi; else echo dangling; fi
  elif [ -d "$1" ]; then echo directory; elif [ -e "$1" ]; then echo file; else echo missing; fi
}
real=$(readlink -m -- "$directory")
echo "real $real"
path=$directory
while [ "$path" != / ]; do echo "parent $(kind "$path") $path"; path=$(dirname "$path"); done
path=$real; while [ ! -d "$path" ]; do path=$(dirname "$path"); done
mount=$(findmnt -n -o FSTYPE,OPTIONS,TARGET -T "$path" 2>/dev/null | tail -n1 | tr -s ' ')
echo "mount $mount"
target=${mount#* * }
# A mount that systemd has no file for was made by hand, and a boot does not make it. ZFS mounts its own.
case $mount in "" | zfs\ * | *" /") ;; *)
  unit=$(systemd-escape --path --suffix=mount "$target" 2>/dev/null) &&
    [ "$(systemctl show -p ActiveState -p FragmentPath "$unit" 2>/dev/null | sort | tr '\n' ' ')" = \
      "ActiveState=active FragmentPath= " ] && echo byhand ;; esac
if grep -qsFx -e "RequiresMountsFor=$real" -e "RequiresMountsFor=$directory" "$quadlet"; then echo used
else
  [ -d "$real" ] && find "$real" -mindepth 1 -maxdepth 1 -printf 'entry %f\n' | head -n 40
  path=$real
  while [ "$path" != / ]; do
    if command -v dpkg-query >/dev/null; then
      owner=$(dpkg-query -S "$path" 2>/dev/null | sed -n '/^diversion /d; s/[:,].*//p; q')
    elif command -v rpm >/dev/null; then
      owner=$(rpm -qf --qf '%{NAME}\n' "$path" 2>/dev/null | grep -v ' ' | head -n1)
    else owner=; fi
    [ -z "$owner" ] || { echo "package $path $owner"; break; }
    path=$(dirname "$path")
  done
  getent passwd 2>/dev/null | while IFS=: read -r name _ _ _ _ home _; do
    [ "$home" != "$real" ] || echo "home $name"; done
fi
for each; do echo "part $(kind "$each") $each"; done
postgres=$1
if [ -d "$postgres" ]; then
  [ -e "$postgres/PG_VERSION" ] || [ -z "$(find "$postgres" -mindepth 1 -maxdepth 1 ! -name lost+found)" ] ||
    echo "foreign $postgres"
  for process in $(find -L /proc/[0-9]*/cwd -maxdepth 0 -samefile "$postgres" 2>/dev/null | cut -d/ -f3); do
    group=$(sed -n 's/^0:://p' "/proc/$process/cgroup" 2>/dev/null)
    name=$(tr -d '\000-\037' <"/proc/$process/comm" 2>/dev/null)
    [ -z "$name" ] || echo "user $process $group $name"; done
fi
echo end
"""


@dataclass(frozen=True, slots=True)
class Storage:
    """The storage directory of a host.

    ``real`` is its path without links. ``parents`` are it and its parents, ``parts`` the directories that a deploy
    makes in it: path → ``directory``, ``link`` (to a directory), ``dangling`` (to nothing), ``file``, ``missing``.
    ``by_hand`` says that no boot mounts its file system. ``used`` says that the deployed node's unit names it; then
    ``entries``, ``package`` and ``homes`` are not asked for. ``package`` are the nearest path that belongs to a
    package, and the package; ``homes`` are the accounts whose home it is. ``users`` are processes that work in the
    database's directory: process, control group, program; ``foreign`` says that files of others lie in it.
    """

    real: str
    parents: dict[str, str]
    parts: dict[str, str]
    file_system: str
    options: frozenset[str]
    mount: str
    used: bool
    by_hand: bool = False
    entries: tuple[str, ...] = ()
    package: tuple[str, str] | None = None
    homes: tuple[str, ...] = ()
    foreign: bool = False
    users: tuple[tuple[int, str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"options": sorted(self.options)}


def parse(output: list[str]) -> Storage:
    """The lines of the command. Raises ``ValueError`` when they end too early or are of another kind."""
    if not output or output[-1] != "end":
        raise ValueError("the answer ended too early")
    words: dict[str, list[str]] = {}
    for line in output[:-1]:
        kind, _, rest = line.partition(" ")
        words.setdefault(kind, []).append(rest)
    file_system, options, mount = (*words.get("mount", [""])[0].split(" ", 2), "", "", "")[:3]
    package = words.get("package", [""])[0].rpartition(" ")
    users = [each.split(" ", 2) for each in words.get("user", ()) if each.count(" ") >= 2]
    return Storage(
        real=words.get("real", [""])[0],
        parents={path: kind for kind, _, path in (each.partition(" ") for each in words.get("parent", ()))},
        parts={path: kind for kind, _, path in (each.partition(" ") for each in words.get("part", ()))},
        file_system=file_system,
        options=frozenset(options.split(",")) - {""},
        mount=mount,
        used="used" in words,
        by_hand="byhand" in words,
        entries=tuple(words.get("entry", ())),
        package=(package[0], package[2]) if package[0] else None,
        homes=tuple(words.get("home", ())),
        foreign="foreign" in words,
        users=tuple((int(process), group, program) for process, group, program in users),
    )


class StorageState(FactBase[Storage | None]):
    """What is at the path of the storage, and where it is. ``parts`` begin with the database's directory.

    ``quadlet`` is the unit file that names the storage of the deployed node.
    """

    def command(
        self,
        directory: str,
        parts: tuple[str, ...],
        quadlet: str,
    ) -> str:
        return f"sh -c {quote(_COMMAND)} storage {' '.join(map(quote, (directory, quadlet, *parts)))}"

    def process(self, output: list[str]) -> Storage:
        try:
            return parse(output)
        except ValueError as error:
            raise FactProcessError(f"the storage directory cannot be read: {error}") from error
