"""The node's health check."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase

_SCRIPT = """\
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://" + sys.argv[1] + "/healthz", timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    pass
"""


class Health(FactBase[int | None]):
    """The HTTP status of the node's health check (200, 204; 503 while its mempool is busy), or ``None``."""

    def command(self, listen: str = "127.0.0.1:8888") -> str:
        return f"python3 -I -c {quote(_SCRIPT)} {quote(listen)}"

    def process(self, output: list[str]) -> int | None:
        return int(output[0]) if output else None
