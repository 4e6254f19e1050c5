"""Entry of `python3 -I /usr/local/lib/pcibind/__main__.py`: this directory as it lies on a node.

Named by its file, since running a directory costs a third of Python's start more.
"""

import gc
import os
import sys

if __name__ == "__main__":
    # A run is short: to search it for garbage, and to take the interpreter apart at its end, takes
    # longer than to find that a boot has nothing to do.
    gc.disable()
    sys.path.insert(0, __file__.rpartition("/")[0])
    from pcibind.__main__ import main

    try:
        main()
    except SystemExit as end:
        # All output is flushed by now.
        if not isinstance(end.code, int):
            raise
        os._exit(end.code)
