"""The deploy that collects hosts, as an operator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.facts.test_collection import answer
from tests.unit.facts.test_collection_command import run

pytestmark = pytest.mark.commands

ROOT = Path(__file__).parents[3]


def collect(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the deploy; what pyinfra says is one text."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("pyinfra")), *words],
        cwd=ROOT,
        env=os.environ | {"PYINFRA_PROGRESS": "off"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_host_that_fails_says_why_and_does_not_stop_the_others(tmp_path: Path) -> None:
    inventory, out = tmp_path / "inventory.py", tmp_path / "not/there/yet"
    garbage = {"fake_responses": {"gevulot-collection": ["motd"]}, "fake_delay": 0, "fake_delay_jitter": 0}
    whole = garbage | {"fake_responses": {"gevulot-collection": answer(name="gpu/1", host=("hide @fake/gpu1",))}}
    inventory.write_text(f"hosts = [('@fake/broken', {garbage!r}), ('@fake/gpu1', {whole!r})]\n")
    done = collect("-y", str(inventory), "deploys/collect.py", "--data", f"collect_directory={out}")
    assert done.returncode == 1, done.stdout
    assert "found 'motd', expected the line 'gevulot-collection 1' first" in done.stdout
    assert "not collected: it gave no answer within 180 s, or one that cannot be read" in done.stdout
    assert f"collected: {out}/@fake%2Fgpu1.collected.json" in done.stdout
    # Nothing is left of the way that the file was written.
    assert [path.name for path in out.iterdir()] == ["@fake%2Fgpu1.collected.json"]
    assert json.loads(next(out.iterdir()).read_text())["format"] == "gevulot-collection"


def test_the_environment_names_the_directory_too_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "@local.collected.json"
    path.write_text("of another day")
    dry = collect("--dry", "@local", "deploys/collect.py", GEVULOT_COLLECT_DIRECTORY=str(tmp_path))
    assert (dry.returncode, path.read_text()) == (0, "of another day")
    done = collect("-y", "@local", "deploys/collect.py", GEVULOT_COLLECT_DIRECTORY=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert json.loads(path.read_text())["platform"] == list(run().platform)


def test_a_typo_does_not_send_the_files_elsewhere(tmp_path: Path) -> None:
    for words, environment in (
        (("--data", f"colect_directory={tmp_path}"), {}),
        ((), {"GEVULOT_COLLECT_DIR": str(tmp_path)}),
    ):
        done = collect("-y", "@local", "deploys/collect.py", *words, **environment)
        assert done.returncode == 1
        assert "unknown; did you mean" in done.stdout
        assert "Traceback" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = collect("-y", "@local", "deploys/collect.py", "--data", f"collect_directory={tmp_path}/file")
    assert done.returncode == 1
    assert f"not collected: {tmp_path}/file/@local.collected.json cannot be written: File exists" in done.stdout
