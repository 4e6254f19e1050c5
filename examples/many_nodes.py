"""Many nodes with shared settings, which a node's own data overrides. Their hosts reboot one, then two at a time."""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inventories.template import check_inventory

_PEERS = ("198.51.100.0/24", "203.0.113.7/32")  # the networks of their peers, nobody else's

nodes = (
    [
        ("gpu1.example.com", {"gevulot_p2p_advertised": "192.0.2.1:9999"}),
        ("gpu2.example.com", {"gevulot_p2p_advertised": "192.0.2.2:9999"}),
        ("gpu3.example.com", {"gevulot_p2p_advertised": "192.0.2.3:9999", "gevulot_reboot": "never"}),
    ],
    {
        "ssh_user": "operator",
        "_sudo": True,
        "gevulot_p2p_listen": "0.0.0.0:9999",
        "gevulot_peers": _PEERS,
        "gevulot_p2p_discovery": ("192.0.2.1:9999",),
        "gevulot_reboot_batch": 2,
    },
)

check_inventory(globals())
