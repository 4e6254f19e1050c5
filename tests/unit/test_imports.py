"""Which packages may import which: import-linter, with the contracts in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(directory), str(directory / "helpers/pcibind/src")))
    words = [str(LINT), "--no-cache", "--no-logo"]
    return subprocess.run(words, cwd=directory, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


def test_every_import_runs_the_way_that_the_contracts_say() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_an_import_that_runs_upwards_is_found(tmp_path: Path) -> None:
    for top in ("deploys", "facts", "inventories", "tests", "helpers", "pyproject.toml"):
        (tmp_path / top).symlink_to(ROOT / top)
    (tmp_path / "deploys").unlink()
    subprocess.run(["cp", "-r", str(ROOT / "deploys"), str(tmp_path / "deploys")], check=True)
    with (tmp_path / "deploys/assessment/checks.py").open("a") as file:
        file.write("import deploys.operations.files\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert "deploys.assessment is not allowed to import deploys.operations" in done.stdout
