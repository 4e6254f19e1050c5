"""A bare Linux host with GPU boards becomes a running, verified Gevulot node.

    pyinfra inventories/prod.py deploys/node.py

The host is that of deploys/gpu_host.py: deploys/steps/gpu_host.py has the steps of both, and all else here is
Gevulot's. They are those of the install guide, in the order in which they work. A step returns the operations whose
changes others wait for, so that a plan names what has to follow; what really follows is asked of the machine.
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploys.manifest import AS_NODE
from deploys.operations.pending_reboot import PendingReboot
from deploys.steps.access import grant_access
from deploys.steps.account import make_account
from deploys.steps.baseline import record_before
from deploys.steps.firewall import configure_firewall, start_firewall
from deploys.steps.gevulot import configure_node, start_node
from deploys.steps.gpu_host import hand_boards_over, prepare_boot
from deploys.steps.images import pull_images
from deploys.steps.key import make_key
from deploys.steps.packages import PACKAGES, install_packages
from deploys.steps.postgres import configure_postgres, make_database_secrets, retire_postgres, start_postgres
from deploys.steps.preflight import check_node
from deploys.steps.verify import verify
from deploys.steps.vsock import configure_sockets

node = check_node()
settings = node.settings
reboot = PendingReboot(settings, node.verdict)

record_before(AS_NODE)
install_packages(node.family, PACKAGES)
sockets = configure_sockets(node.verdict)
recorded = prepare_boot(node, reboot, also=sockets)

with reboot.steps_after():
    hand_boards_over(node, reboot, after=[recorded])
    make_account(settings)
    pull_images(settings)
    database = [make_database_secrets(settings)]
    key = make_key(settings)
    postgres = configure_postgres(settings)
    firewall = configure_firewall(settings)
    # A restart of the firewall restarts the node; the password of its own database is no concern of it.
    secrets = [] if settings.own_postgres else database
    gevulot = [recorded, *secrets, *firewall, *configure_node(node, after=postgres)]
    start_postgres(settings, reboot, after=[*database, *postgres])
    start_firewall(settings, reboot, after=firewall)
    start_node(settings, reboot, after=gevulot)
    retire_postgres(settings)
    grant_access(settings, reboot, after=[*database, *postgres, *gevulot, *key])
    verify(node, reboot)
