"""When a deploy last found everything right on a node."""

from __future__ import annotations

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# Of this boot: after the next one nobody has looked yet.
MARK = "/run/gpu-host/verified"


class VerificationTime(FactBase[int | None]):
    """When the table at the end of a deploy was last all right, in seconds of Unix time; ``None`` if not since boot."""

    def command(self) -> str:
        return f"if [ -e {MARK} ]; then stat -c %Y {MARK}; fi"

    def process(self, output: list[str]) -> int:
        try:
            seconds = int(output[0])
            if not 0 < seconds < 2**33:
                raise ValueError
            return seconds
        except ValueError:
            raise FactProcessError(f"{MARK}: expected a time, found {output[0]!r}") from None
