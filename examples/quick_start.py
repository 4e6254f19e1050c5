"""The node of the quick start, which its peers reach. In a copy, edit the four lines that end in "edit me"."""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inventories.template import check_inventory

nodes = [
    (
        "gpu1.example.com",  # your node's name or address: edit me
        {
            "ssh_user": "root",  # or another account, with "_sudo": True beside it: edit me
            "gevulot_p2p_listen": "0.0.0.0:9999",
            "gevulot_p2p_advertised": "192.0.2.1:9999",  # how its peers reach it: edit me
            "gevulot_peers": ("198.51.100.0/24",),  # the networks of its peers, nobody else's: edit me
        },
    ),
]

check_inventory(globals())
