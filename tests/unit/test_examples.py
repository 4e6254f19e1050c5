"""The inventories to copy: refused as they are, and taken by the settings' check once they are edited."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from paramiko import SSHConfig
from pyinfra.api.exceptions import PyinfraError

from deploys.settings import HostSettings, Settings, SettingsError, read, read_all, read_host
from tests.unit.documents import ROOT, text

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
EDITS = {"example.com": "gpus.lan", "192.0.2.": "10.20.30.", "198.51.100.": "10.20.31.", "203.0.113.": "10.20.32."}
examples = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator exports before a run."""
    monkeypatch.setenv("GEVULOT_PSK_PASSPHRASE", "our own passphrase")
    monkeypatch.setenv("GPU1_DB_URL", "postgres://node:secret@db.gpus.lan:5432/node")


def edited(example: Path, directory: Path) -> list[tuple[str, dict[str, Any]]]:
    """Copy an example, put an operator's own names and addresses in, and return its hosts with all their data."""
    for file in example.parent.glob(f"{example.stem}.*"):
        content = file.read_text(encoding="utf-8")
        for reserved, own in EDITS.items():
            content = content.replace(reserved, own)
        (directory / file.name).write_text(content, encoding="utf-8")
    variables = runpy.run_path(str(directory / example.name))
    nodes = variables["nodes"]
    hosts, shared = nodes if isinstance(nodes, tuple) else (nodes, {})
    return [*((name, {**shared, **data}) for name, data in hosts), *variables.get("gpu_hosts", [])]


def settings(name: str, directory: Path) -> dict[str, Settings]:
    return read_all(edited(ROOT / f"examples/{name}.py", directory), read)


def names(each: HostSettings) -> list[str]:
    """The boards that a host's settings choose, as an inventory names them."""
    assert each.boards != "supported"
    return [selector.value for selector in each.boards]


@examples
def test_an_example_is_refused_until_it_is_edited(example: Path) -> None:
    with pytest.raises(PyinfraError, match="still the template"):
        runpy.run_path(str(example))


@examples
def test_an_edited_example_is_accepted(example: Path, tmp_path: Path) -> None:
    assert read_all(edited(example, tmp_path), read)
    assert read_all(edited(example, tmp_path), read_host)


def test_a_host_without_a_node_needs_no_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEVULOT_PSK_PASSPHRASE")
    hosts = edited(ROOT / "examples/gpu_host.py", tmp_path)
    chosen = [names(each) for each in read_all(hosts, read_host).values()]
    assert chosen == [["10de:2684"], ["0000:00/01.0/00"]]
    with pytest.raises(SettingsError, match="gevulot_psk_passphrase"):
        read_all(hosts, read)


def test_nodes_have_shared_settings_and_their_own(tmp_path: Path) -> None:
    nodes = settings("many_nodes", tmp_path)
    assert {each.reboot_batch for each in nodes.values()} == {2}
    assert len({each.p2p_advertised for each in nodes.values()}) == len(nodes) == 3
    assert [each.reboot for each in nodes.values()] == ["when-needed", "when-needed", "never"]


def test_boards_are_chosen_in_each_way(tmp_path: Path) -> None:
    chosen = [names(each) for each in settings("some_boards", tmp_path).values()]
    assert chosen == [["0000:00/01.0/00"], ["0000:01:00.0", "0000:02:00.0"], ["10de:2684"], []]


def test_the_url_of_a_database_is_read_from_the_environment(tmp_path: Path) -> None:
    (node,) = settings("external_database", tmp_path).values()
    assert node.postgres_url is not None
    assert not node.own_postgres
    assert "postgres://" not in text("examples/external_database.py")


def test_the_jump_host_is_in_the_ssh_configuration(tmp_path: Path) -> None:
    ((name, data),) = edited(ROOT / "examples/jump_host.py", tmp_path)
    options = SSHConfig.from_path(data["ssh_config_file"]).lookup(name)
    assert options["proxyjump"] in SSHConfig.from_path(data["ssh_config_file"]).get_hostnames()


def test_the_tracked_inventory_has_the_hosts_of_a_file_that_git_ignores(tmp_path: Path) -> None:
    tracked = tmp_path / "prod.py"
    tracked.write_text(text("inventories/prod.py"))
    with pytest.raises(
        PyinfraError, match=r"hosts\.py is missing; .* cp examples/quick_start\.py inventories/hosts\.py"
    ):
        runpy.run_path(str(tracked))
    hosts = edited(ROOT / "examples/quick_start.py", tmp_path)
    (tmp_path / "quick_start.py").rename(tmp_path / "hosts.py")
    assert runpy.run_path(str(tracked))["nodes"] == hosts
    assert "/inventories/hosts.py" in text(".gitignore").splitlines()


def test_every_example_is_listed() -> None:
    listed = set(re.findall(r"^\| \[(\w+\.py)\]", text("examples/README.md"), re.MULTILINE))
    assert listed == {example.name for example in EXAMPLES}
