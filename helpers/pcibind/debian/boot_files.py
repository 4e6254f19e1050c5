"""Write the boot files of a package below a directory: `python3 debian/boot_files.py ROOT`."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from pcibind.change.setup import package_files
from pcibind.read.files import write_atomically

for each in package_files():
    write_atomically(sys.argv[1] + each.path, each.text, each.mode)
