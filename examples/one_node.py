"""One node that no peer reaches: it listens on loopback, and takes every supported NVIDIA board of its host."""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inventories.template import check_inventory

nodes = [
    ("gpu1.example.com", {"ssh_user": "root"}),
]

check_inventory(globals())
