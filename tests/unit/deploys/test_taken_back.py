"""A setting that is taken back takes its effects back: every key, set on a deployed host and then unset again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploys.settings import Settings
from tests.unit.deploys import recorded as r
from tests.unit.deploys.runs import ROOT, Run, start

pytestmark = pytest.mark.commands
HOST = "@fake/settled"
# Another point of the curve than the host's own key.
_OTHER_KEY = f"04{r.PUBLIC_KEY[2:66]}{2**256 - 2**32 - 977 - int(r.PUBLIC_KEY[66:], 16):064x}"
_IDS = "vfio-pci.ids=10de:2684,10de:22ba"

# Keys that tell the deploy how to work, and change nothing on a host.
HOW: dict[str, Any] = {
    "enforce_minimum": True,
    "reboot": "never",
    "reboot_timeout": 600,
    "reboot_batch": 2,
    "verify_virtual_machine": False,
    "probe_ports": {9999: 19999},
}
# Keys whose effects are files and services of the host. Each dictionary is set at once, and unset at once.
WITH_OWN_DATABASE: dict[str, Any] = {
    "board_guards_allowed": ["boot-display"],
    "gpu_functions": "all",
    "vfio_ids": True,
    "node_image": "quay.io/gevulot/node:next",
    "auto_update": True,
    "start_timeout": 900,
    "seccomp_profile": "/etc/own.json",
    "postgres_image": "docker.io/library/postgres:16-bookworm",
    "postgres_password": "a password",
    "postgres_port": 5433,
    "rust_log": "info",
    "p2p_listen": "0.0.0.0:9990",
    "p2p_advertised": "203.0.113.7:9990",
    "peers": ["10.0.0.0/8"],
    "p2p_discovery": ["203.0.113.9:9999"],
    "json_rpc_listen": "127.0.0.1:9945",
    "healthcheck_listen": "127.0.0.1:8889",
    "metrics_listen": "127.0.0.1:9100",
    "http_port": 9996,
    "vsock_listen_port": 8081,
    "acl_whitelist": [_OTHER_KEY],
    "cpus": 8,
    "mem_gb": 64,
    "provider": "qemu",
    "qemu_path": "/usr/bin/qemu-system-x86_64",
}
WITH_ANOTHER_DATABASE: dict[str, Any] = {
    "boards": [],
    "postgres_url": "postgres://gevulot:url-password@db.example.net:5433/gevulot",
    "acl_whitelist_url": "https://example.net/list",
    "no_execution": True,
}
SETS = {"own": WITH_OWN_DATABASE, "another": WITH_ANOTHER_DATABASE}
# Keys that cannot be set and unset on one node, each with what keeps an operator from it.
FIXED = {
    "psk_passphrase": "a node always has one",
    "storage_directory": "the node's key is missing at another place, which the deploy refuses",
    "postgres_release": "it must be that of the data, which the preflight refuses otherwise",
}

UNITS = "systemctl show --timestamp=unix -p Id"
TIMER = "podman-auto-update.timer"
_BEFORE = (
    '["begin", "place /var/lib/gpu-host", "privileged", "archive", "record", \'{"version": 1, '
    '"kernel_command_line": [], "configured_command_lines": [], '
    '"system_state": "running", "functions": [], "auto_update_timer": "disabled"}\']'
)


def test_every_key_is_set_and_unset_here_or_says_why_not() -> None:
    groups = (HOW, WITH_OWN_DATABASE, WITH_ANOTHER_DATABASE, FIXED)
    assert sorted(key for group in groups for key in group) == sorted(Settings.model_fields)


def _run(directory: Path, before: Run | None, keys: dict[str, Any], answers: str, *arguments: str) -> Run:
    """One run, on a host where all was done that ``before`` and the runs before it did."""
    log = directory / "sent.jsonl"
    known = "{}"
    if before is not None:
        assert before.sent
        for suffix in ("", ".files"):
            shutil.copy(before.directory / f"sent.jsonl{suffix}", directory / f"before.jsonl{suffix}")
            shutil.copy(before.directory / f"sent.jsonl{suffix}", f"{log}{suffix}")
        known = f"r.settled({str(directory / 'before.jsonl')!r}, {HOST!r})"
    (directory / "inventory.py").write_text(
        f"""
from tests.unit.deploys import recorded as r
known = {known}
def units(*changed):
    lines = known[{UNITS!r}] + ["Id={TIMER}", "LoadState=loaded", "ActiveState=active", "SubState=waiting",
                                "NeedDaemonReload=no", "UnitFileState=enabled", ""]
    blocks = [block for block in "\\n".join(lines).split("\\n\\n") if not block.startswith(changed)]
    gone = ["\\n".join((each, "LoadState=not-found", "ActiveState=inactive", "SubState=dead", "NeedDaemonReload=no"))
            for each in changed]
    return "\\n\\n".join([*blocks, *gone]).splitlines()
_answers = {answers}
r.watch({str(log)!r})
nodes = [({HOST!r}, r.saying({{**known, **_answers}}, r.data(
    r.Recorded(r.DEBIAN, needs_reboot=False), **{keys!r})))]
"""
    )
    return start(directory, str(directory / "inventory.py"), str(ROOT / "deploys/node.py"), *arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """A host that is deployed; on it each set of keys; and after that, none of them again."""

    def place() -> Path:
        return tmp_path_factory.mktemp("run")

    done = {"never": _run(place(), None, {}, "{}", "-y")}
    never = done["never"]
    line = f'["live {r.KERNEL} {r.ARGUMENTS} {_IDS}", "configured {r.KERNEL} {r.ARGUMENTS} {_IDS}"]'
    profile = '"existing /etc/own.json": ["/etc/own.json"]'
    own = '"^Secret=gevulot-db-password": "1:Secret=gevulot-db-password"'
    done["how"] = _run(place(), never, HOW, "{}", "--dry", "--json")
    done["set own"] = _run(place(), never, WITH_OWN_DATABASE, f'{{"/proc/cmdline": {line}, {profile}}}', "-y")
    done["set another"] = _run(
        place(), never, WITH_ANOTHER_DATABASE, f'{{{own}, " check gevulot-db-url ": "absent"}}', "-y"
    )
    listed = [f"{word} {key}" for key in (r.PUBLIC_KEY, _OTHER_KEY) for word in ("listed", "recorded")]
    access = [f"own {r.PUBLIC_KEY}", "answered", *listed]
    done["unset own"] = _run(
        place(), done["set own"], {},
        f'{{"^AutoUpdate=": "1:AutoUpdate=registry", "echo privileged": {_BEFORE}, {UNITS!r}: units(), '
        f'"FROM acl_whitelist": {access!r}}}', "-y",
    )  # fmt: skip
    done["unset another"] = _run(
        place(), done["set another"], {},
        f'{{{UNITS!r}: units("Id=gevulot-postgres.service"), " check gevulot-db-url ": "different"}}', "-y",
    )  # fmt: skip
    yield done
    for run in done.values():
        run.process.kill()
        run.process.wait()


def _files(run: Run) -> dict[str, tuple[str, str, str]]:
    assert run.exit_code is not None
    modes, digests = r.left_by(str(run.directory / "sent.jsonl"), HOST)
    return {place: (*modes[place], digests[place]) for place in digests}


def _commands(run: Run) -> list[str]:
    """What this run sent to change the host, without the runs before it."""
    earlier = len(r.sent(run.directory / "before.jsonl"))
    return [each.text for each in run.sent[earlier:] if each.kind != "question"]


def test_keys_that_say_how_to_deploy_change_nothing_on_a_host(runs: dict[str, Run]) -> None:
    assert runs["how"].planned("settled") == set(), runs["how"].output


@pytest.mark.parametrize("kind", SETS)
def test_keys_that_are_unset_leave_the_files_of_a_host_that_never_had_them(runs: dict[str, Run], kind: str) -> None:
    never, changed, back = (_files(runs[name]) for name in ("never", f"set {kind}", f"unset {kind}"))
    assert len(never) > 15
    assert changed != never
    assert back == never


def test_every_file_that_a_key_decides_was_changed_by_one(runs: dict[str, Run]) -> None:
    never = _files(runs["never"])
    same = set(never)
    for kind in SETS:
        changed = _files(runs[f"set {kind}"])
        same -= {place for place in never if changed.get(place) != never[place]}
    # What no setting has a part in.
    assert not {place for place in same if place.startswith(("/etc/gevulot/node", "/etc/containers", "/etc/pcibind"))}


def test_another_database_ends_the_nodes_own_and_unsetting_it_brings_that_back(runs: dict[str, Run]) -> None:
    assert any("systemctl stop gevulot-postgres.service" in each for each in _commands(runs["set another"]))
    assert "/etc/containers/systemd/gevulot-postgres.container" not in _files(runs["set another"])
    commands = _commands(runs["unset another"])
    assert any("gevulot-postgres.service" in each and "start" in each for each in commands)
    assert any(" apply gevulot-db-url none" in each for each in commands)


def test_automatic_updates_that_are_unset_switch_their_timer_off(runs: dict[str, Run]) -> None:
    assert any(TIMER in each and "enable" in each for each in _commands(runs["set own"]))
    assert f"systemctl disable --now {TIMER}" in _commands(runs["unset own"])


def test_an_operators_key_that_is_unset_is_denied(runs: dict[str, Run]) -> None:
    assert any(f" peer {_OTHER_KEY} whitelist" in each for each in _commands(runs["set own"]))
    assert any(f" peer {_OTHER_KEY} deny" in each for each in _commands(runs["unset own"]))


def test_the_node_runs_with_what_is_unset_in_the_end(runs: dict[str, Run]) -> None:
    for kind in SETS:
        assert "Start the node | Start the node" in runs[f"unset {kind}"].operations("settled")
