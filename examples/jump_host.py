"""A node behind a jump host, which `jump_host.ssh_config` beside this file describes.

Copy both, or move the text of that file into ~/.ssh/config and leave `ssh_config_file` out.
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inventories.template import check_inventory

nodes = [
    # The name of a `Host` section.
    (
        "gpu1",
        {
            "ssh_config_file": str(Path(__file__).with_name("jump_host.ssh_config")),
            "gevulot_p2p_listen": "0.0.0.0:9999",
            "gevulot_p2p_advertised": "192.0.2.1:9999",
            "gevulot_peers": ("198.51.100.0/24",),
        },
    ),
]

check_inventory(globals())
