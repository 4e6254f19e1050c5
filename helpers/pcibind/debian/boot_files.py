"""Write the boot files of a package below a directory: `python3 debian/boot_files.py ROOT`."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

# After the path is set, from which they come.
from pcibind.change.setup import package_files  # noqa: E402
from pcibind.read.files import write_atomically  # noqa: E402

for each in package_files():
    write_atomically(sys.argv[1] + each.path, each.text, each.mode)
