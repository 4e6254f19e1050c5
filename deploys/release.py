"""A Gevulot node becomes the host that it was before its first deploy. Its data is kept.

    pyinfra inventories/prod.py deploys/release.py

The node stops first, since its virtual machines hold the boards; the boards go back to their drivers before anything
that knows those drivers is removed. A deploy afterwards gives the same node again.
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploys.undo.boards import release_boards, remove_pcibind
from deploys.undo.boot import reboot_when_left_over, rebuild_initramfs, restore_arguments, restore_modules
from deploys.undo.comparison import compare, tell_what_stays
from deploys.undo.node import remove_node, stop_node
from deploys.undo.start import begin_release

leaving = begin_release()

if leaving is not None:
    stop_node(leaving=leaving)
    remove_node(leaving=leaving)
    restore_modules(leaving=leaving)
    release_boards(leaving=leaving)
    remove_pcibind(leaving=leaving)
    restore_arguments(leaving=leaving)
    rebuild_initramfs(leaving=leaving)
    reboot_when_left_over(leaving=leaving)

    # With gevulot_reboot="never" and a reboot pending, there is nothing to compare yet.
    compare(leaving=leaving, _if=leaving.gate)
    tell_what_stays(leaving=leaving)
