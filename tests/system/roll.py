"""The part of the runbook that leads to the reboot, as a deploy of its own."""

from deploys.operations.pending_reboot import PendingReboot
from deploys.steps.kernel import configure_kernel
from deploys.steps.preflight import check_node
from deploys.steps.reboot import reboot_when_needed

node = check_node()
configure_kernel(node)
reboot_when_needed(node, PendingReboot(node.settings, node.verdict))
