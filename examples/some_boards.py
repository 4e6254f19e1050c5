"""Nodes that get some boards of their hosts: by path, by address, by model, or none."""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inventories.template import check_inventory

nodes = [
    # By its path, which stays the same when a card is added: `pcibind list` prints it.
    ("gpu1.example.com", {"ssh_user": "root", "gevulot_boards": ["0000:00/01.0/00"]}),
    # By their addresses, as `lspci -Dnn` shows them.
    ("gpu2.example.com", {"ssh_user": "root", "gevulot_boards": ["0000:01:00.0", "0000:02:00.0"]}),
    # Every board of a model, also the only display of the machine.
    (
        "gpu3.example.com",
        {"ssh_user": "root", "gevulot_boards": ["10de:2684"], "gevulot_board_guards_allowed": ["boot-display"]},
    ),
    # A node without GPU.
    ("node1.example.com", {"ssh_user": "root", "gevulot_boards": []}),
]

check_inventory(globals())
