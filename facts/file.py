"""A plain file, as far as a deploy decides about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

_COMMAND = r"""
if [ -f "$1" ] && [ ! -L "$1" ]; then stat -c '%a %U:%G' -- "$1" && sha256sum <"$1"; fi
"""


@dataclass(frozen=True, slots=True)
class State:
    """Mode in octal digits, owner as ``user:group``, and the content's SHA-256 in hexadecimal digits."""

    mode: str
    owner: str
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PlainFile(FactBase[State | None]):
    """The state of one file, in one command; ``None`` where there is none, or a link or a directory instead."""

    def command(self, path: str = "/etc/containers/systemd/gevulot-node.container") -> str:
        return f"sh -c {quote(_COMMAND)} file {quote(path)}"

    def process(self, output: list[str]) -> State:
        match [line.split() for line in output]:
            case [[mode, owner], [digest, "-"]]:
                return State(mode, owner, digest)
        raise FactProcessError(f"a file's state cannot be read: {output[:2]}, expected MODE OWNER and a digest")
