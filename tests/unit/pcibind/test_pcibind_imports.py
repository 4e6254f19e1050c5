"""Imports run one way through the folders: commands, change, then read and decide, model."""

from __future__ import annotations

import ast
from pathlib import Path

import pcibind

PACKAGE = Path(pcibind.__file__).parent
BELOW = {
    "model": set(),
    "read": {"model"},
    "decide": {"model"},
    "change": {"model", "read", "decide"},
    "commands": {"model", "read", "decide", "change"},
    "remote": {"model", "read"},
    "__main__": {"model", "commands"},
}
"""What the modules of each folder may import besides their own folder."""

KNOWN = {
    "model/pci.py": {"remote"},
    "model/record.py": {"read"},
    "model/report.py": {"decide"},
}
"""Imports that run the other way today. Remove a line here when it is gone; add none."""


def imported(path: Path, *, types: bool = True) -> set[str]:
    """What a file imports, wherever in it the import stands; `types` includes what only a type checker does."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    checked = [
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    ]
    for node in ast.walk(tree):
        if not types and node in checked:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def folder(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "data" and path.parent != PACKAGE] + [
        PACKAGE / "__main__.py"
    ]


def test_every_folder_has_its_place_in_the_order() -> None:
    assert {folder(path) for path in modules()} == set(BELOW)


def test_imports_run_from_commands_to_the_model_only() -> None:
    against: dict[str, set[str]] = {}
    for path in modules():
        own = folder(path)
        there = {name.split(".")[1] for name in imported(path) if name.startswith("pcibind.")} & set(BELOW)
        wrong = there - BELOW[own] - {own}
        if wrong:
            against[str(path.relative_to(PACKAGE))] = wrong
    assert against == KNOWN


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    names = {".".join(("pcibind", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in modules()}
    needs = {name: imported(path, types=False) & set(names) - {name} for name, path in names.items()}
    # What imports only what is already free of circles is free of them too.
    free: set[str] = set()
    while True:
        more = {name for name, others in needs.items() if name not in free and others <= free}
        if not more:
            break
        free |= more
    assert set(names) - free == set()


def test_the_package_imports_nothing_of_the_project_around_it() -> None:
    around = {"deploys", "facts", "inventories", "tests", "pyinfra"}
    for path in modules():
        assert not {name.partition(".")[0] for name in imported(path)} & around, path
