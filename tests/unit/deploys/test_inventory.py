"""Inventories that pyinfra would misread without a word, run through its command line and by themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.exceptions import PyinfraError

from deploys import inventory as judged
from inventories.template import check_inventory

ROOT = Path(__file__).parents[3]
PASSPHRASE = "our own passphrase"
FAKE = '("@fake/one", r.data(r.Recorded(r.DEBIAN)))'


def run(cwd: Path, inventory: Path | str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One dry run of node.py, as an operator starts it: with nothing of ours on Python's path but the tests' own."""
    words = [sys.executable, "-m", "pyinfra", str(inventory), str(ROOT / "deploys/node.py"), "--dry", *arguments]
    known = {key: value for key, value in os.environ.items() if not key.startswith("GEVULOT_")}
    known["PYTHONPATH"] = str(ROOT / "helpers/pcibind/src")
    done = subprocess.run(
        words, cwd=cwd, env=known | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done


def output_of(done: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"\s+", " ", done.stdout + done.stderr)


def project(directory: Path, text: str, **group_data: str) -> Path:
    """An inventory beside a copy of the project's group data, and more of it."""
    data = directory / "group_data"
    data.mkdir()
    head = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom deploys.inventory import check_run as _c\n_c()\n"
    (data / "all.py").write_text(head)
    for name, content in group_data.items():
        (data / f"{name}.py").write_text(content)
    path = directory / "prod.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.unit.deploys import recorded as r\n{text}"
    )
    return path


EMPTY = ("nodes = []", 'nodes = "gpu1"', 'nodes = {"gpu1": {}}', "", 'region = "eu"')


@pytest.mark.commands
@pytest.mark.parametrize("text", EMPTY)
def test_an_inventory_without_hosts_is_no_success_wherever_it_is_and_is_run(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    done = run(ROOT, path)
    assert done.returncode == 1
    assert f"{path}: it has no host; expected a list of hosts" in output_of(done)
    done = run(tmp_path, project(tmp_path, text))
    assert done.returncode == 1
    assert "prod.py: it has no host; expected a list of hosts" in output_of(done)


@pytest.mark.commands
@pytest.mark.parametrize(
    "arguments", [("--limit", "nope"), ("--exclude", "gpu*"), ("--limit", "gpu1", "--exclude", "gpu1")]
)
def test_a_limit_that_leaves_no_host_is_no_success(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = project(tmp_path, "nodes = ['gpu1', 'gpu2']")
    done = run(tmp_path, path, *arguments)
    assert done.returncode == 1
    assert f"{' '.join(arguments)} leaves none of the hosts of the inventory (gpu1, gpu2)" in output_of(done)


@pytest.mark.commands
def test_an_inventory_that_does_not_exist_is_no_success() -> None:
    done = run(ROOT, "nosuch.py")
    assert done.returncode == 1
    assert "nosuch.py: it has no host" in output_of(done)


@pytest.mark.commands
def test_a_list_that_is_no_group_of_hosts_is_refused_before_anything_is_connected(tmp_path: Path) -> None:
    path = project(tmp_path, f"nodes = [{FAKE}]\ndiscovery = ['8.8.8.8:9999']\n")
    done = run(tmp_path, path)
    assert done.returncode == 1
    assert "'8.8.8.8:9999' in the list 'discovery' is no host's name" in output_of(done)
    assert "move the list to gevulot_p2p_discovery" in output_of(done)
    assert "Connecting" not in output_of(done)


@pytest.mark.commands
def test_host_data_that_pyinfra_ignores_is_refused_before_anything_is_connected(tmp_path: Path) -> None:
    path = project(tmp_path, "nodes = [('gpu1', {'sudo': True, 'ssh_usr': 'root'})]\n")
    done = run(tmp_path, path)
    assert done.returncode == 1
    assert "gpu1: sudo: pyinfra ignores this key; did you mean _sudo?" in output_of(done)
    assert "gpu1: ssh_usr: pyinfra ignores this key; did you mean ssh_user?" in output_of(done)
    assert "Connecting" not in output_of(done)


@pytest.mark.commands
def test_group_data_of_no_group_is_named_and_no_host_is_changed(tmp_path: Path) -> None:
    path = project(tmp_path, f"nodes = [{FAKE}]\n", node="gevulot_boards = []", lab="x = 1")
    (tmp_path / "lab.py").write_text("machines = []\n")
    (tmp_path / "group_data/nodes.yml").write_text("gevulot_boards: []\n")
    done = run(tmp_path, path, GEVULOT_PSK_PASSPHRASE=PASSPHRASE)
    assert done.returncode == 1
    assert "group_data/node.py is of no group of the inventory, so pyinfra ignores it" in output_of(done)
    assert "did you mean nodes?" in output_of(done)
    assert "nodes.yml is not read by pyinfra; expected Python: write it as nodes.py" in output_of(done)
    # Inventories that lie beside one another share their group data.
    assert "group_data/lab.py" not in output_of(done)


@pytest.mark.commands
def test_an_inventory_anywhere_takes_the_exported_passphrase_from_any_directory(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"import sys\nsys.path.append({str(ROOT)!r})\nfrom tests.unit.deploys import recorded as r\n"
                    f"one = r.data(r.Recorded(r.DEBIAN))\ndel one['gevulot_psk_passphrase']\n"
                    f"r.watch({str(tmp_path / 'sent')!r})\nnodes = [('@fake/one', one)]\n")  # fmt: skip
    done = run(tmp_path, path, GEVULOT_PSK_PASSPHRASE=PASSPHRASE)
    assert done.returncode == 0, output_of(done)
    assert PASSPHRASE not in output_of(done)


@pytest.mark.commands
@pytest.mark.parametrize("script", ["node", "status", "undo", "collect"])
def test_the_scripts_run_in_any_directory(tmp_path: Path, script: str) -> None:
    words = [sys.executable, "-m", "pyinfra", "-y", str(ROOT / "examples/quick_start.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "helpers/pcibind/src")}
    done = subprocess.run(
        [*words, str(ROOT / f"deploys/{script}.py")],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert "the inventory is still the template" in output_of(done)
    assert "ModuleNotFoundError" not in output_of(done)


# --- the template's own check


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"nodes": []}, "there is no host in it (nodes is a list of 0)"),
        ({}, "there is no host in it (nothing is set)"),
        ({"nodes": "gpu1"}, "nodes is 'gpu1', which pyinfra ignores; expected a list of hosts"),
        ({"nodes": None}, "nodes is None, which pyinfra ignores"),
        ({"nodes": {"gpu1": {"gevulot_psk_passphrase": "hunter2"}}}, "nodes is a dict of 1, which pyinfra ignores"),
        ({"canary": {"gpu1": {}}, "nodes": ["gpu2"]}, "canary is a dict of 1, which pyinfra ignores"),
        ({"nodes": {"gpu1"}}, "nodes is a set of 1, which pyinfra ignores"),
        ({"nodes": ("gpu1", "gpu2")}, "nodes is a tuple, which pyinfra takes for ([hosts], {data})"),
        ({"nodes": ("gpu1",)}, "nodes is a tuple"),
        ({"nodes": ["gpu1", None]}, "nodes[1] is None, which is no host"),
        ({"nodes": ["gpu1", ""]}, "nodes[1] is a str, which is no host"),
        ({"nodes": ["gpu1", ("gpu2", "hunter2")]}, "nodes[1] is a tuple of 2, which is no host"),
        ({"nodes": [("gpu1", {}, "hunter2")]}, "nodes[0] is a tuple of 3, which is no host"),
        ({"nodes": [["gpu1", {}]]}, "nodes[0] is a list of 2, which is no host"),
        ({"nodes": [(5, {})]}, "nodes[0] is a tuple of 2, which is no host"),
        ({"nodes": ["gpu1", ("gpu1", {})]}, "nodes has 'gpu1' twice"),
        ({"nodes": ["gpu1:2222"]}, "'gpu1:2222' in the list 'nodes' is no host's name"),
        ({"nodes": ["gpu1 gpu2"]}, "'gpu1 gpu2' in the list 'nodes' is no host's name"),
        ({"nodes": ["root@gpu1"]}, "'root@gpu1' in the list 'nodes' is no host's name"),
        ({"nodes": ["gpu1"], "peers": ["any"]}, "the list 'peers' is a setting"),
        ({"nodes": ["gpu1"], "gevulot_boards": ["a"]}, "the list 'gevulot_boards' is a setting"),
        ({"nodes": ["gpu1"], "networks": ["203.0.113.0/24"]}, "'203.0.113.0/24' in the list 'networks' is no host's"),
        ({"nodes": (["gpu1:1"], {})}, "'gpu1:1' in the list 'nodes' is no host's name"),
    ],
)
def test_what_pyinfra_would_ignore_or_misread_is_refused(variables: dict[str, Any], expected: str) -> None:
    with pytest.raises(PyinfraError) as error:
        check_inventory({"__file__": "x", "_own": {"a": {}}, "os": os, "Path": Path} | variables)
    assert expected in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"nodes": ["gpu1"]},
        {"nodes": ["2001:db8::1", "192.168.0.7", "@local", "gpu_1.lan", ("@docker/image:tag", {})]},
        {"nodes": (["gpu1"], {"ssh_user": "root"}), "canary": [], "region": "eu"},
    ],
)
def test_hosts_as_pyinfra_takes_them_are_taken(variables: dict[str, Any]) -> None:
    check_inventory(variables)


def test_a_group_that_is_empty_now_may_keep_its_data(tmp_path: Path) -> None:
    path = tmp_path / "prod.py"
    path.write_text("nodes = ['gpu1']\ncanary = []\nfor node in ():\n    pass\n")
    host = SimpleNamespace(name="gpu1")
    inventory: Any = SimpleNamespace(
        groups={"nodes": [host], "prod": [host]}, group_data={"canary": {"a": 1}, "node": {"a": 1}, "nodes": {"a": 1}}
    )
    (problem,) = judged.problems(inventory, str(path))
    assert problem.startswith("group_data/node.py is of no group")


@pytest.mark.parametrize("name", ["group_vars", "host_vars", "host_data"])
def test_data_in_a_place_that_pyinfra_does_not_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "prod.py").write_text("nodes = ['gpu1']\n")
    (tmp_path / name).mkdir()
    (tmp_path / name / "gpu1.py").write_text("gevulot_boards = []\n")
    inventory: Any = SimpleNamespace(groups={}, group_data={})
    (problem,) = judged.problems(inventory, str(tmp_path / "prod.py"))
    assert problem.startswith(f"{tmp_path / name} is not read by pyinfra")
