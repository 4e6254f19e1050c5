"""Nodes and GPU hosts without a node in one inventory. Each deploy is limited to its own list.

pyinfra inventories/prod.py deploys/node.py --limit nodes
pyinfra inventories/prod.py deploys/gpu_host.py --limit gpu_hosts
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inventories.template import check_inventory

nodes = [
    ("gpu1.example.com", {"ssh_user": "root"}),
]

gpu_hosts = [
    # The only board is the host's display: its guards have to be allowed.
    (
        "gpu2.example.com",
        {"ssh_user": "root", "gevulot_board_guards_allowed": ["boot-display", "framebuffer"]},
    ),
]

check_inventory(globals())
