"""Keys: the SSH key pairs of this cache, one for the operator, one that every guest shows."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache


@dataclass(frozen=True)
class Keys:
    """Private key files (mode 0600); the public halves lie beside them as `….pub`."""

    operator: Path
    host: Path

    def public(self, private: Path) -> str:
        """Return the public half as `ssh-ed25519 AAAA…`, without a comment."""
        kind, body = private.with_name(private.name + ".pub").read_text().split()[:2]
        return f"{kind} {body}"


def ensure(directory: Path) -> Keys:
    """Return the key pairs in `directory`/keys; made at the first call."""
    folder = directory / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    keys = Keys(operator=folder / "operator", host=folder / "host")
    with cache.locked(folder / "keys"):
        for private in (keys.operator, keys.host):
            if private.exists():
                continue
            half = cache.unfinished(private)
            subprocess.run(
                [
                    *("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gevulot-lab"),
                    *("-f", str(half)),
                ],
                check=True,
                stdin=subprocess.DEVNULL,
            )
            # The private half last: it says that both are there.
            half.with_name(half.name + ".pub").rename(private.with_name(private.name + ".pub"))
            half.rename(private)
    return keys
