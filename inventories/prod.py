"""Your nodes: those of `inventories/hosts.py`, a file of your own that git ignores. Make it once, and edit it:

cp examples/quick_start.py inventories/hosts.py
read -rs GEVULOT_PSK_PASSPHRASE && export GEVULOT_PSK_PASSPHRASE
pyinfra inventories/prod.py deploys/node.py --dry --diff
pyinfra inventories/prod.py deploys/node.py
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inventories.template import check_inventory, read_hosts

globals().update(read_hosts(Path(__file__).with_name("hosts.py")))
check_inventory(globals())
