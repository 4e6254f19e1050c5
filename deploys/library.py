"""pcibind as it lies on a host: the files of its directory, the command that runs it, and their digest."""

from __future__ import annotations

from hashlib import sha256
from importlib import resources
from pathlib import Path

import pcibind
from pcibind.change import boot_files

DIRECTORY = str(Path(boot_files.SCRIPT_PATH).parent)
WRAPPER = f'#!/bin/sh\nexec /usr/bin/python3 -I {DIRECTORY}/__main__.py "$@"\n'


def read_tree() -> dict[str, bytes]:
    """The files of the directory: relative path → content."""
    package = Path(str(resources.files(pcibind)))
    tree = {
        f"pcibind/{path.relative_to(package)}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    main = (package.parent / "__main__.py").read_bytes()
    return {"__main__.py": main, "early": boot_files.script().encode(), **tree}


def digest(tree: dict[str, bytes]) -> str:
    """The digest that ``TreeDigest`` reads from a host: over one ``sha256sum`` line for each file, sorted."""
    lines = sorted(f"{sha256(content).hexdigest()}  ./{path}\n" for path, content in tree.items())
    return sha256("".join(lines).encode()).hexdigest()
