"""The directory of a deploy's record: today's, or the one of earlier versions where only that has a record."""

from __future__ import annotations

# The start of a command that has both as its first two arguments. The record says which of the two counts.
CHOSEN = """
current=$1 directory=$1
if [ ! -e "$1/before.json" ] && [ -e "$2/before.json" ]; then directory=$2; fi
shift 2
"""
