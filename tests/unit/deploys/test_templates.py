"""Every file that lands on a node, as its template renders it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from deploys import settings
from deploys.operations.files import TEMPLATES

IMAGE = "quay.io/gevulot/node:latest"
SYSTEMD = "etc/containers/systemd"
MIGRATION = "etc/systemd/system/gevulot-migrate.service"
KEY = "etc/systemd/system/gevulot-key.service"
PROGRAM = "usr/local/libexec/gevulot/firewall"
ALLOW_VSOCK = "usr/local/libexec/gevulot/allow-vsock"
FIREWALL = "etc/systemd/system/gevulot-firewall.service"
NODE: dict[str, Any] = {
    "socket": "/run/gevulot-postgres/socket",
    "image": IMAGE, "auto_update": False, "own_postgres": True, "gpu": "display",
    "devices": "/run/pcibind/devices.env",
    "seccomp_profile": "", "allow_vsock": True, "storage": "/srv/node", "data": "/srv/node/data", "start_timeout": 1800,
}  # fmt: skip
MIGRATE: dict[str, Any] = {
    "own_postgres": True, "storage": "/srv/node", "database_host": "127.0.0.1", "database_port": 5432,
    "image": IMAGE, "start_timeout": 1800,
}  # fmt: skip
ENVIRONMENT = settings.read("gpu1", {"gevulot_psk_passphrase": "the own one"}).environment()
VARIABLES: dict[str, dict[str, Any]] = {
    f"{SYSTEMD}/gevulot-node.container": NODE,
    f"{SYSTEMD}/gevulot-postgres.container": {
        "image": "docker.io/library/postgres:16-alpine", "directory": "/srv/node/postgres", "port": 5432,
        "start_timeout": 1800, "socket": "/run/gevulot-postgres/socket", "socket_root": "/run/gevulot-postgres",
    },
    "etc/modules-load.d/gpu-host.conf": {"modules": ["vfio", "vfio_pci"]},
    "etc/modules-load.d/gevulot-node.conf": {"modules": ["vsock"]},
    "etc/udev/rules.d/99-gpu-host-vfio.rules": {},
    MIGRATION: MIGRATE,
    KEY: {"key": "/srv/node/key", "seconds": 1860},
    "etc/gevulot/node.env": {"environment": ENVIRONMENT},
    "etc/gevulot/pg_hba.conf": {},
    "etc/gevulot/pg_ident.conf": {},
    "etc/modprobe.d/gpu-host-boards.conf": {"modules": ["nouveau", "nvidia_current"], "models": []},
    "etc/default/grub.d/zz-gpu-host.cfg": {"arguments": ("intel_iommu=on", "iommu=pt")},
    "usr/local/libexec/gevulot/migrate": {"options": ["--volume=/run/a:/run/b:ro,z", "--env=GEVULOT_DB_URL=c?d"]},
    "usr/local/libexec/gevulot/hand-over-key": {},
    ALLOW_VSOCK: {},
    PROGRAM: {},
    "etc/gevulot/firewall.nft": {"networks4": ["203.0.113.0/24"], "networks6": [], "ports": [9995, 9999]},
    "etc/gevulot/qmp.nft": {
        "cgroup": "system.slice/x.service", "level": 2, "bit": 0x10000000, "services": [8888, 9944], "reused": "1-2"
    },
    FIREWALL: {},
}  # fmt: skip


def render(path: str, **changes: Any) -> str:
    """The file as pyinfra renders it: its environment, with our options."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    text = (TEMPLATES / f"{path}.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(**(VARIABLES[path] | changes))


def keys(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(("#", "["))]


def test_every_template_is_rendered_here() -> None:
    templates = {str(path.relative_to(TEMPLATES))[:-3] for path in TEMPLATES.rglob("*.j2")}
    assert templates == set(VARIABLES)


@pytest.mark.parametrize("path", [path for path in VARIABLES if path not in (PROGRAM, ALLOW_VSOCK)])
def test_each_file_is_whole_text_without_a_trace_of_its_template(path: str) -> None:
    text = render(path)
    assert text.endswith("\n")
    # Blank lines that a condition left; a program in Python has two on purpose.
    assert text.startswith("#!/usr/bin/python3") or "\n\n\n" not in text
    assert not any(mark in text for mark in ("{%", "%}", "{{", "}}", "{#", "None", "Undefined"))


@pytest.mark.parametrize("path", VARIABLES)
def test_no_template_has_a_place_for_a_secret(path: str) -> None:
    text = (TEMPLATES / f"{path}.j2").read_text(encoding="utf-8")
    places = [part.partition("}}")[0] for part in text.split("{{")[1:]]
    assert [place for place in places if any(word in place for word in ("pass", "secret", "url", "psk"))] == []


@pytest.mark.parametrize("gpu", ["display", "all"])
def test_a_node_with_boards_takes_them_as_they_were_proven_at_this_boot(gpu: str) -> None:
    text = render(f"{SYSTEMD}/gevulot-node.container", gpu=gpu)
    functions = "PCIBIND_DISPLAY_FUNCTIONS" if gpu == "display" else "PCIBIND_FUNCTIONS"
    assert f"PodmanArgs=$PCIBIND_PODMAN_DEVICES --env=GEVULOT_GPU_DEVICES=${{{functions}}}" in keys(text)
    assert "EnvironmentFile=/run/pcibind/devices.env" in keys(text)
    assert "Requires=pcibind.service" in keys(text)
    assert "After=pcibind.service" in keys(text)
    assert "ConditionKernelCommandLine=!pcibind=off" in keys(text)
    assert "AddDevice=/dev/vfio" not in text


def test_a_node_without_boards_does_not_speak_of_them() -> None:
    text = render(f"{SYSTEMD}/gevulot-node.container", gpu="")
    assert "pcibind" not in text.lower()
    assert "GEVULOT_GPU_DEVICES" not in text


def test_a_node_with_its_own_database_waits_for_it() -> None:
    for path in (f"{SYSTEMD}/gevulot-node.container", MIGRATION):
        assert "Requires=gevulot-postgres.service" in keys(render(path))
        assert "gevulot-postgres" not in render(path, own_postgres=False)


def test_the_node_starts_after_its_migration() -> None:
    lines = keys(render(f"{SYSTEMD}/gevulot-node.container"))
    assert {"Requires=gevulot-migrate.service", "After=gevulot-migrate.service"} <= set(lines)
    assert "Before=gevulot-node.service" in keys(render(MIGRATION))


def test_automatic_updates_are_an_option() -> None:
    assert "AutoUpdate=registry" in keys(render(f"{SYSTEMD}/gevulot-node.container", auto_update=True))
    assert "AutoUpdate" not in render(f"{SYSTEMD}/gevulot-node.container")


def test_a_seccomp_profile_is_an_option() -> None:
    assert "SeccompProfile=/etc/x.json" in keys(
        render(f"{SYSTEMD}/gevulot-node.container", seccomp_profile="/etc/x.json")
    )
    assert "SeccompProfile" not in render(f"{SYSTEMD}/gevulot-node.container")


def test_what_the_vsock_socket_needs_is_decided_at_each_start_of_the_node() -> None:
    lines = keys(render(f"{SYSTEMD}/gevulot-node.container"))
    assert {
        "RuntimeDirectory=gevulot-vsock",
        "ExecStartPre=/usr/local/libexec/gevulot/allow-vsock start /run/gevulot-vsock",
        "EnvironmentFile=-/run/gevulot-vsock/podman.env",
        "PodmanArgs=$VSOCK_PODMAN_OPTIONS",
    } <= set(lines)
    own = render(f"{SYSTEMD}/gevulot-node.container", allow_vsock=False, seccomp_profile="/etc/x.json")
    assert "gevulot-vsock" not in own
    assert "$VSOCK" not in own


def test_the_node_has_what_the_guide_gives_it() -> None:
    lines = set(keys(render(f"{SYSTEMD}/gevulot-node.container")))
    assert {
        "Network=host",
        "AddDevice=/dev/kvm:rw",
        "AddDevice=/dev/vsock:rw",
        "AddDevice=/dev/vhost-vsock:rw",
        "Ulimit=memlock=-1:-1",
        "SecurityLabelDisable=true",
        "Secret=gevulot-psk-passphrase,type=env,target=GEVULOT_PSK_PASSPHRASE",
        "Volume=/srv/node/data:/var/lib/gevulot:z",
        "RequiresMountsFor=/srv/node",
        "Restart=always",
        "TimeoutStartSec=1800",
        "WantedBy=multi-user.target",
    } <= lines


def test_the_container_has_the_directory_of_the_hand_over_and_not_the_keys() -> None:
    lines = keys(render(f"{SYSTEMD}/gevulot-node.container"))
    volumes = [line.removeprefix("Volume=") for line in lines if line.startswith("Volume=")]
    assert volumes == [
        "/srv/node/data:/var/lib/gevulot:z",
        "/run/gevulot-key:/run/gevulot-key:ro,z",
        "/run/gevulot-postgres/socket:/run/postgresql:ro,z",
    ]


def test_each_start_of_the_node_starts_its_own_hand_over_and_each_end_ends_it() -> None:
    lines = keys(render(f"{SYSTEMD}/gevulot-node.container"))
    assert "ExecStartPre=/usr/bin/systemctl restart gevulot-key.service" in lines
    assert "ExecStopPost=-/usr/bin/systemctl stop gevulot-key.service" in lines
    # As a dependency it would also be started beside a node that runs.
    assert not any("gevulot-key.service" in line for line in lines if not line.startswith("Exec"))


def test_the_hand_overs_directory_is_roots_own_and_lasts_as_long_as_the_hand_over() -> None:
    lines = keys(render(KEY))
    assert {"RuntimeDirectory=gevulot-key", "RuntimeDirectoryMode=0700"} <= set(lines)
    assert "RequiresMountsFor=/srv/node/key" in lines
    program = "/usr/local/libexec/gevulot/hand-over-key"
    assert f"ExecStart={program} /srv/node/key/node.key /run/gevulot-key/node.key 1860" in lines
    # An order against the node, which waits for this unit's start, would make them wait for each other.
    assert not any(line.startswith(("After=", "Before=", "Requires=", "BindsTo=", "WantedBy=")) for line in lines)


def test_a_node_that_was_ended_by_sigterm_ended_in_success() -> None:
    lines = keys(render(f"{SYSTEMD}/gevulot-node.container"))
    assert {"RunInit=true", "SuccessExitStatus=143"} <= set(lines)


def test_the_node_reaches_its_own_database_by_a_socket_and_another_by_its_url() -> None:
    socket, secret = "Volume=/run/gevulot-postgres/socket:/run/postgresql:ro,z", "Secret=gevulot-db-url,type=env"
    own, external = (render(f"{SYSTEMD}/gevulot-node.container", own_postgres=own) for own in (True, False))
    assert socket in keys(own)
    assert secret not in own
    assert f"{secret},target=GEVULOT_DB_URL" in keys(external)
    assert "/run/gevulot-postgres" not in external


def test_only_root_may_enter_the_directory_of_the_socket() -> None:
    lines = keys(render(f"{SYSTEMD}/gevulot-postgres.container"))
    assert "ExecStartPre=/usr/bin/install -d -m 0700 /run/gevulot-postgres /run/gevulot-postgres/socket" in lines, (
        "the directory is made before the container starts, and kept when it stops"
    )
    assert "Volume=/run/gevulot-postgres/socket:/var/run/postgresql:z" in lines
    assert not [line for line in lines if line.startswith("RuntimeDirectory")]


def test_on_the_socket_only_root_and_the_images_own_account_are_the_role() -> None:
    assert [rule.split() for rule in keys(render("etc/gevulot/pg_ident.conf"))] == [
        ["gevulot", "root", "gevulot"],
        ["gevulot", "postgres", "gevulot"],
    ]
    assert ["local", "all", "gevulot", "peer", "map=gevulot"] in [
        rule.split() for rule in keys(render("etc/gevulot/pg_hba.conf"))
    ]
    assert "trust" not in render("etc/gevulot/pg_hba.conf")


def test_the_database_listens_on_loopback_and_asks_everybody_for_the_password() -> None:
    text = render(f"{SYSTEMD}/gevulot-postgres.container")
    assert "-c listen_addresses=127.0.0.1 -c unix_socket_directories=/var/run/postgresql -c port=5432" in text
    assert "--auth-host=scram-sha-256" in text
    rules = [line.split() for line in keys(render("etc/gevulot/pg_hba.conf"))]
    assert [rule[-1] for rule in rules if rule[0] != "local"] == ["scram-sha-256"]


def test_no_quadlet_key_is_newer_than_the_podman_that_is_asked_for() -> None:
    too_new = ("Notify=healthy", "GroupAdd=", "ServiceName=", "Memory=", "ReloadCmd=", "[Image]", "[Build]", "[Pod]")
    for name in ("gevulot-node", "gevulot-postgres"):
        text = render(f"{SYSTEMD}/{name}.container")
        assert [key for key in too_new if key in text] == []


def test_the_environment_is_one_line_for_each_variable() -> None:
    assert render("etc/gevulot/node.env").splitlines() == [f"{key}={value}" for key, value in ENVIRONMENT.items()]


def test_modules_are_listed_one_a_line() -> None:
    assert keys(render("etc/modules-load.d/gpu-host.conf")) == ["vfio", "vfio_pci"]
    assert keys(render("etc/modules-load.d/gevulot-node.conf")) == ["vsock"]


def test_drivers_are_blacklisted_one_a_line() -> None:
    path = "etc/modprobe.d/gpu-host-boards.conf"
    assert keys(render(path)) == ["blacklist nouveau", "blacklist nvidia_current"]
    assert keys(render(path, modules=[])) == []


def test_models_are_given_to_vfio_only_on_request() -> None:
    models = ["10de:2684", "10de:22ba"]
    assert keys(render("etc/modprobe.d/gpu-host-boards.conf", modules=[], models=models)) == [
        "options vfio-pci ids=10de:2684,10de:22ba"
    ]


@pytest.mark.parametrize(
    ("others", "line"),
    [
        ({}, "ro|quiet intel_iommu=on iommu=pt"),
        ({"hetzner.cfg": 'GRUB_CMDLINE_LINUX_DEFAULT="consoleblank=0"'}, "ro|consoleblank=0 intel_iommu=on iommu=pt"),
        ({"zzz.cfg": "GRUB_CMDLINE_LINUX_DEFAULT=splash"}, "ro intel_iommu=on iommu=pt|splash"),
        ({"zzz.cfg": "GRUB_CMDLINE_LINUX=rw"}, "rw|quiet intel_iommu=on iommu=pt"),
        ({"zzz.cfg": "GRUB_TIMEOUT=5"}, "ro intel_iommu=on iommu=pt|quiet intel_iommu=on iommu=pt"),
    ],
)
def test_the_boot_loader_keeps_what_it_had_and_ours_whatever_another_file_assigns(
    tmp_path: Path, others: dict[str, str], line: str
) -> None:
    own = render("etc/default/grub.d/zz-gpu-host.cfg").replace("/etc/default/grub.d", str(tmp_path))
    for name, text in (others | {"zz-gpu-host.cfg": own}).items():
        (tmp_path / name).write_text(f"{text}\n")
    # As grub-mkconfig does it.
    script = (
        f'set -e; GRUB_CMDLINE_LINUX=ro GRUB_CMDLINE_LINUX_DEFAULT=quiet; for x in {tmp_path}/*.cfg; do . "$x"; done; '
        'echo "$GRUB_CMDLINE_LINUX|$GRUB_CMDLINE_LINUX_DEFAULT"'
    )
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.strip() == line


@pytest.mark.parametrize("path", [PROGRAM, ALLOW_VSOCK])
def test_a_program_is_python_and_nothing_of_it_is_filled_in(path: str) -> None:
    text = render(path)
    assert text == (TEMPLATES / f"{path}.j2").read_text(encoding="utf-8")
    compile(text, path, "exec")


def test_a_node_does_not_run_without_its_firewall_and_has_its_rules_renewed_at_each_start() -> None:
    lines = keys(render(f"{SYSTEMD}/gevulot-node.container"))
    assert {"BindsTo=gevulot-firewall.service", "After=gevulot-firewall.service"} <= set(lines)
    first = next(line for line in lines if line.startswith("ExecStartPre="))
    assert first == "ExecStartPre=/usr/bin/systemctl reload gevulot-firewall.service"
    # Done only when the rules are in the kernel.
    assert "Type=notify-reload" in keys(render(FIREWALL))


def test_a_firewall_that_fails_takes_the_node_down_and_brings_it_back() -> None:
    lines = keys(render(FIREWALL))
    assert {"Restart=always", "StartLimitIntervalSec=0", "Wants=gevulot-node.service"} <= set(lines)
    assert any(line.startswith("ExecStopPost=") and "SIGKILL gevulot-node.service" in line for line in lines)


def test_a_migration_that_failed_is_tried_again_after_a_long_pause_and_starts_the_node() -> None:
    lines = keys(render(MIGRATION))
    assert {"Restart=on-failure", "RestartSec=180", "StartLimitIntervalSec=0"} <= set(lines)
    assert "ExecStartPost=-/usr/bin/systemctl start --no-block gevulot-node.service" in lines
    # With Wants= systemd starts the node, and with it the migration, at once when the pause starts: a loop.
    assert not any(line.startswith(("Wants=gevulot-node", "OnSuccess=")) for line in lines)


def test_a_stop_of_the_node_ends_its_migrations_tries_and_is_no_failure() -> None:
    assert {"PartOf=gevulot-node.service", "SuccessExitStatus=SIGTERM"} <= set(keys(render(MIGRATION)))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_hand_over(tmp_path: Path) -> None:
    text = render(KEY).replace("/usr/local/libexec/gevulot/hand-over-key", "/bin/true")
    path = tmp_path / "gevulot-key.service"
    path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)], capture_output=True, text=True
    )
    assert "gevulot-key.service" not in done.stderr, done.stderr


@pytest.mark.parametrize("own_postgres", [True, False])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_migration(tmp_path: Path, own_postgres: bool) -> None:
    # What the unit refers to stands in for itself, so that only the unit is judged.
    (tmp_path / "migrate").write_text("#!/bin/sh\n")
    (tmp_path / "migrate").chmod(0o755)
    for name in ("gevulot-postgres", "gevulot-node"):
        (tmp_path / f"{name}.service").write_text("[Service]\nExecStart=/bin/true\n")
    text = render(MIGRATION, own_postgres=own_postgres).replace(
        "/usr/local/libexec/gevulot/migrate", f"{tmp_path}/migrate"
    )
    path = tmp_path / "gevulot-migrate.service"
    path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)], capture_output=True, text=True
    )
    assert "gevulot-migrate.service" not in done.stderr, done.stderr
