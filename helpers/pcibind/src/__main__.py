"""Entry of `python3 -I /usr/local/lib/pcibind/__main__.py`: this directory as it lies on a node.

Named by its file, since running a directory costs a third of Python's start more.
"""

import sys

sys.path.insert(0, __file__.rpartition("/")[0])

from pcibind.__main__ import main

if __name__ == "__main__":
    main()
