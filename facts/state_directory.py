"""Where deploys keep what they know of a host: the directory of its record, and the one of earlier versions."""

from __future__ import annotations

CURRENT = "/var/lib/gpu-host"
FORMER = "/var/lib/gevulot-deploy"
"""What an earlier version wrote is read there until a deploy moves it. The record says which of the two counts."""

# Beside the record while a deploy moves the host on to today's names: until then those of earlier versions are ours.
RENAMING = "renaming"

# For a command that has both as its first two arguments.
CHOSEN = """
directory=$1
if [ ! -e "$1/before.json" ] && [ -e "$2/before.json" ]; then directory=$2; fi
shift 2
"""


def former(path: str) -> str:
    """The place of a file of the directory, or of the directory itself, on a host that no deploy has moved it on."""
    return FORMER + path.removeprefix(CURRENT) if path == CURRENT or path.startswith(f"{CURRENT}/") else path
