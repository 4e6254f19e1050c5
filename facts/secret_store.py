"""Whether Podman's secret store can be read. No secret is read out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.untrusted import printable

# Podman 5.4.2 ends with 0 and prints nothing when the file with the data is no JSON, and says "no such secret" when one
# secret's data are missing. So a secret is readable when its name is printed again. Of others one is tried: what is
# wrong with the file as a whole shows in each.
# A Podman that does not answer in time (124) waits for another one, such as a pull that goes on after its run was
# killed: that says nothing of the store.
_COMMAND = r"""
inspect() { timeout 20 podman secret inspect --showsecret --format '{{.Spec.Name}}' "$@"; }
has() { printf '%s\n' "$1" | grep -qFx -- "$2"; }
end_if_busy() { [ "$1" != 124 ] || { echo busy; exit; }; }
{ listed=$(timeout 30 podman secret ls --format '{{.Name}} {{.Driver}}' 2>/dev/null); code=$?
end_if_busy $code
if [ $code = 0 ]; then
  names=$(printf '%s\n' "$listed" | sed 's/ .*//')
  ours=; for name; do ! has "$names" "$name" || ours="$ours $name"; done
  other=$(printf '%s\n' "$listed" | sed -n 's/ file$//p' | while read -r name; do
    case " $* " in *" $name "*) ;; *) echo "$name"; break ;; esac; done)
  readable=
  if [ -n "$ours$other" ]; then readable=$(inspect $ours $other 2>/dev/null); end_if_busy $?; fi
  for name in $ours; do
    has "$readable" "$name" || { why=$(inspect "$name" 2>&1 >/dev/null); end_if_busy $?
      echo "damaged $name $(printf '%s\n' "$why" | tail -n1)"; }; done
  if [ -n "$other" ] && ! has "$readable" "$other" && inspect "$other" >/dev/null 2>&1; then
    echo "damaged $other its data is no JSON"; fi
  printf '%s\n' "$names" | sed -n 's/^./listed &/p'
else
  why=$(timeout 20 podman secret ls 2>&1 >/dev/null); end_if_busy $?
  echo "unreadable $(printf '%s\n' "$why" | tail -n1)"
fi; } | { answer=$(cat); printf '%s\n' "$answer"; case $answer in *damaged\ * | unreadable\ *)
  echo "root $(timeout 20 podman info --format '{{.Store.GraphRoot}}' 2>/dev/null)" ;; esac; }
echo end
"""


@dataclass(frozen=True, slots=True)
class SecretStoreState:
    """The secret store. ``problem`` is why its list cannot be read, ``damaged`` are secrets that cannot be: name → why.

    ``listed`` are the names of all secrets, ``path`` where the store is. ``is_busy``: Podman did not answer in time.
    """

    listed: tuple[str, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    problem: str | None = None
    path: str = "/var/lib/containers/storage/secrets"
    is_busy: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse(output: list[str]) -> SecretStoreState:
    """The lines of the command. Raises ``ValueError`` when they end too early."""
    if not output or output[-1] != "end":
        raise ValueError("the answer ended too early")
    words: dict[str, list[str]] = {}
    for line in output[:-1]:
        kind, _, rest = line.partition(" ")
        words.setdefault(kind, []).append(rest.strip())
    damaged = (each.partition(" ") for each in words.get("damaged", ()))
    root = words.get("root", [""])[0]
    return SecretStoreState(
        listed=tuple(dict.fromkeys(words.get("listed", ()))),
        damaged=tuple((name, printable(why, 160) or "nothing") for name, _, why in damaged),
        problem=printable(words["unreadable"][0], 160) or "no answer" if "unreadable" in words else None,
        is_busy="busy" in words,
        path=f"{root}/secrets" if root.startswith("/") else SecretStoreState().path,
    )


class SecretStore(FactBase[SecretStoreState]):
    """Whether the store, and these secrets of it where they are listed, can be read."""

    @staticmethod
    def default() -> SecretStoreState:
        return SecretStoreState()

    def requires_command(self, names: tuple[str, ...] = ()) -> str:
        return "podman"

    def command(self, names: tuple[str, ...] = ()) -> str:
        return f"sh -c {quote(_COMMAND)} secrets {' '.join(map(quote, names))}".rstrip()

    def process(self, output: list[str]) -> SecretStoreState:
        try:
            return parse(output)
        except ValueError as error:
            raise FactProcessError(f"Podman's secret store cannot be read: {error}") from error
