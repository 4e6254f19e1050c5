"""A bare Linux host with GPU boards becomes a running, verified Gevulot node.

    pyinfra inventories/prod.py deploys/node.py

The steps are those of the install guide, in the order in which they work.
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploys.steps.access import grant_access
from deploys.steps.account import make_account
from deploys.steps.baseline import record_before
from deploys.steps.firewall import configure_firewall, start_firewall
from deploys.steps.gevulot import configure_node, start_node
from deploys.steps.images import pull_images
from deploys.steps.initramfs import rebuild_initramfs
from deploys.steps.kernel import configure_kernel, load_modules
from deploys.steps.key import make_key
from deploys.steps.next_boot import check_next_boot
from deploys.steps.packages import install_packages
from deploys.steps.passthrough import bind_boards, prepare_passthrough
from deploys.steps.postgres import configure_postgres, make_database_secrets, retire_postgres, start_postgres
from deploys.steps.preflight import begin
from deploys.steps.reboot import reboot_when_needed
from deploys.steps.reboot_condition import Later
from deploys.steps.verify import verify

node = begin()
later = Later(node)

record_before()
install_packages(node.family)
configure_kernel(node)
prepare_passthrough(node, later)
rebuild_initramfs(node)
check_next_boot(node)
reboot_when_needed(node, later)

# With gevulot_reboot="never" and a reboot pending, nothing below runs: it would change what runs.
load_modules(node, _if=later.gate)
bind_boards(node, later, _if=later.gate)
make_account(node.settings, _if=later.gate)
pull_images(node.settings, _if=later.gate)
make_database_secrets(node, _if=later.gate)
make_key(node.settings, node.access_inputs, _if=later.gate)
configure_postgres(node, _if=later.gate)
configure_firewall(node, _if=later.gate)
configure_node(node, _if=later.gate)
start_postgres(node, later, _if=later.gate)
start_firewall(node, later, _if=later.gate)
start_node(node, later, _if=later.gate)
retire_postgres(node, _if=later.gate)
grant_access(node, later, _if=later.gate)
verify(node, later, _if=later.gate)
