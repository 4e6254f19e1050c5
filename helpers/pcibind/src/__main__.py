"""Entry of `python3 -I /usr/local/lib/pcibind`: this directory as it lies on a node."""

from pcibind.__main__ import main

if __name__ == "__main__":
    main()
