"""When all checks of a deploy last passed on a host."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError


class VerificationTime(FactBase[int | None]):
    """When all checks of a deploy last passed: the time of the file at ``path``, in seconds of Unix time."""

    def command(self, path: str) -> str:
        return f"if [ -e {quote(path)} ]; then stat -c %Y {quote(path)}; fi"

    def process(self, output: list[str]) -> int:
        try:
            seconds = int(output[0])
            if not 0 < seconds < 2**33:
                raise ValueError
            return seconds
        except ValueError:
            raise FactProcessError(
                f"the time of the last verification: expected seconds, found {output[0]!r}"
            ) from None
