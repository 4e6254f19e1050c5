"""Hosts that hand their boards over to another workload than a Gevulot node, for `deploys/gpu_host.py`: no secret."""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inventories.template import check_inventory

nodes = (
    [
        ("gpu1.example.com", {}),
        # Only the board in this slot, by its bridge-relative path.
        ("gpu2.example.com", {"gevulot_boards": ["0000:00/01.0/00"]}),
    ],
    {
        "ssh_user": "root",
        # Of every model that the inventory does not know by itself, by vendor and device.
        "gevulot_boards": ["10de:2684"],
    },
)

check_inventory(globals())
