"""A GPU host, with a Gevulot node or without one, becomes what it was before its first deploy. A node's data is kept.

    pyinfra inventories/prod.py deploys/undo.py

The node stops first, since its virtual machines hold the boards; the boards go back to their drivers before anything
that knows those drivers is removed. A deploy afterwards gives the same node again.
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploys.restoration.boards import remove_pcibind, return_boards
from deploys.restoration.boot import reboot_when_left_over, rebuild_initramfs, restore_arguments, restore_modules
from deploys.restoration.comparison import compare, list_remains
from deploys.restoration.node import remove_node, stop_node
from deploys.restoration.start import prepare_undo

undo = prepare_undo()

if undo is not None:
    stopped = [*stop_node(undo), *remove_node(undo)]
    modules = restore_modules(undo)
    boards = return_boards(undo)
    pcibind = remove_pcibind(undo, after=[boards])
    arguments = restore_arguments(undo)
    initramfs = rebuild_initramfs(undo, after=[*modules, boards, *pcibind.early_files])
    reboot_when_left_over(undo, after=[arguments.menu])

    with undo.steps_after_reboot():
        compare(undo, after=[*stopped, *modules, boards, *pcibind.changes, *arguments.changes, initramfs])
    list_remains(undo)
