"""A bare Linux host with GPU boards hands them over, bound and proven, to whatever workload takes them.

    pyinfra inventories/prod.py deploys/gpu_host.py

It is the host of a Gevulot node without the node: no secret, image, key or database is needed, and nothing on the host
is named after one. deploys/node.py makes a node of it, and deploys/undo.py undoes either.
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploys.manifest import AS_GPU_HOST
from deploys.operations.pending_reboot import PendingReboot
from deploys.steps.baseline import record_before
from deploys.steps.gpu_host import hand_boards_over, prepare_boot
from deploys.steps.host_table import verify_host
from deploys.steps.packages import HOST_PACKAGES, install_packages
from deploys.steps.preflight import check_host

gpu_host = check_host()
reboot = PendingReboot(gpu_host.settings, gpu_host.verdict)

record_before(AS_GPU_HOST)
install_packages(gpu_host.family, HOST_PACKAGES)
recorded = prepare_boot(gpu_host, reboot)

with reboot.steps_after():
    hand_boards_over(gpu_host, reboot, after=[recorded])
    verify_host(gpu_host, reboot)
