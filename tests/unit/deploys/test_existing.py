"""A node that somebody set up by hand, whole or in part: never replaced, and refused with the way to keep its data."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploys import settings
from deploys.assessment.verdict import Findings
from deploys.operations.files import TEMPLATES
from deploys.preflight.existing import UNITS, judge_existing
from facts.existing import ExistingContainer, ExistingNode, ExistingNodeParts, ExistingUnit

POSTGRES, NODE = "gevulot-postgres.service", "gevulot-node.service"
FILES = {unit: path for unit, path, _ in UNITS}
BY_HAND = "/etc/containers/systemd/gevulot-postgres.container"
URL = "postgres://gevulot:a@127.0.0.1:5432/gevulot"


def asked(**keys: Any) -> settings.Settings:
    return settings.read("gpu1", {"gevulot_psk_passphrase": "the own one", **{f"gevulot_{k}": keys[k] for k in keys}})


def refusals(existing: ExistingNode, *, data: bool = False, key: bool = False, **keys: Any) -> list[str]:
    findings = Findings()
    judge_existing(existing, asked(**keys), data, key, findings)
    return findings.refusals


def unit(name: str, file: str, **more: Any) -> ExistingNode:
    generated = {"load": "loaded", "active": "active", "source": FILES[name]} if file != "missing" else {}
    return ExistingNode(units=(ExistingUnit(name, FILES[name], file, **(generated | more)),))


@pytest.mark.parametrize("name", FILES)
def test_a_bare_host_and_a_deployed_one_have_nothing_of_others(name: str) -> None:
    assert refusals(ExistingNode()) == []
    assert refusals(unit(name, "missing", load="not-found", active="inactive")) == []
    assert refusals(unit(name, "ours")) == []


@pytest.mark.parametrize("name", FILES)
def test_a_unit_that_no_deploy_wrote_is_refused_with_its_file(name: str) -> None:
    (text,) = refusals(unit(name, "other"))
    assert text.startswith(f"{name} is made from {FILES[name]}, which no deploy wrote; expected none; ")
    assert f"mv {FILES[name]} /root/ && systemctl daemon-reload; then run again." in text


@pytest.mark.parametrize(
    ("volume", "place"),
    [
        ("/srv/postgres:/var/lib/postgresql/data:Z", "/srv/postgres"),
        ("/srv/postgres:/var/lib/postgresql", "/srv/postgres"),
        ("pgdata:/var/lib/postgresql/data", "\"$(podman volume inspect --format '{{.Mountpoint}}' pgdata)\""),
        ("pg.volume:/var/lib/postgresql/data", "\"$(podman volume inspect --format '{{.Mountpoint}}' systemd-pg)\""),
    ],
)
def test_the_database_of_a_unit_by_hand_is_kept_by_what_the_refusal_says(volume: str, place: str) -> None:
    (text,) = refusals(unit(POSTGRES, "other", volumes=(volume,)))
    directory = "/var/lib/gevulot/postgres"
    copied = f"mkdir -p {directory} && cp -a {place}/. {directory}/"
    assert f"systemctl stop {POSTGRES} && {copied} && mv {BY_HAND} /root/" in text
    assert "set gevulot_postgres_url" in text


def test_a_database_in_its_container_alone_is_to_be_dumped_first() -> None:
    (text,) = refusals(unit(POSTGRES, "other"))
    assert "its data is in the container alone, so save it with pg_dump first" in text


def test_a_server_by_hand_may_be_the_external_one() -> None:
    assert refusals(unit(POSTGRES, "other"), postgres_url=URL) == []


def test_the_key_of_a_node_by_hand_is_kept() -> None:
    (text,) = refusals(unit(NODE, "other", volumes=("/data/gevulot:/var/lib/gevulot:z",)))
    assert "install -m 600 /data/gevulot/node.key /var/lib/gevulot/key/node.key" in text
    (text,) = refusals(unit(NODE, "other", volumes=("/var/lib/gevulot:/var/lib/gevulot:z",)))
    assert "node.key" not in text


@pytest.mark.parametrize(
    "source", ["/etc/systemd/system/gevulot-node.service", "/usr/lib/systemd/system/gevulot-node.service"]
)
@pytest.mark.parametrize("file", ["missing", "ours"])
def test_a_unit_from_another_file_is_refused_though_ours_is_there(source: str, file: str) -> None:
    (text,) = refusals(unit(NODE, file, load="loaded", source=source))
    assert f"{NODE} is made from {source}, which no deploy wrote" in text
    assert f"mv {source} /root/" in text


def test_a_masked_unit_is_refused_with_what_unmasks_it() -> None:
    (text,) = refusals(unit(NODE, "ours", load="masked", source="/etc/systemd/system/gevulot-node.service"))
    assert text == f"{NODE} is masked; expected it not to be; run `systemctl unmask {NODE}`, then run again."


def test_another_quadlet_for_a_container_of_the_same_name_is_refused() -> None:
    (text,) = refusals(unit(POSTGRES, "missing", also=("/etc/containers/systemd/db.container",)))
    assert text.startswith(
        "/etc/containers/systemd/db.container, which no deploy wrote, makes gevulot-postgres.service"
    )


def test_a_file_that_was_moved_away_leaves_nothing_to_refuse_once_its_unit_is_stopped() -> None:
    assert refusals(unit(POSTGRES, "missing", load="loaded", active="inactive", source=BY_HAND)) == []
    (text,) = refusals(unit(POSTGRES, "missing", load="loaded", active="active", source=BY_HAND))
    assert "runs, but its file" in text
    assert f"systemctl stop {POSTGRES}" in text


def container(name: str, by: str, *mounts: tuple[str, str]) -> ExistingContainer:
    return ExistingContainer(name, "running", by, mounts)


def test_a_container_by_hand_is_not_replaced() -> None:
    mount = ("/var/lib/postgresql/data", "/srv/pg")
    existing = replace(
        unit(POSTGRES, "missing", load="not-found"), containers=(container("gevulot-postgres", "", mount),)
    )
    (text,) = refusals(existing)
    assert text.startswith(
        "the container gevulot-postgres (running) was started by hand, not by a deploy; expected none"
    )
    assert "podman stop gevulot-postgres && mkdir -p" in text
    assert (
        "cp -a /srv/pg/. /var/lib/gevulot/postgres/ && podman rename gevulot-postgres gevulot-postgres-before" in text
    )


def test_a_container_of_another_unit_is_not_replaced() -> None:
    existing = replace(unit(NODE, "ours"), containers=(container("gevulot-node", "mine.service"),))
    (text,) = refusals(existing)
    assert "was started by mine.service, not by a deploy" in text
    assert "systemctl stop mine.service" in text


def test_the_container_of_our_unit_is_ours_and_that_of_a_unit_by_hand_is_reported_once() -> None:
    own = container("gevulot-node", NODE)
    assert refusals(replace(unit(NODE, "ours"), containers=(own,))) == []
    assert len(refusals(replace(unit(NODE, "other"), containers=(own,)))) == 1


def test_a_volume_with_a_database_or_a_key_is_not_passed_over() -> None:
    existing = ExistingNode(data=(("gevulot-db", "/vols/db/_data", "database"), ("gevulot", "/vols/g/_data", "key")))
    database, key = refusals(existing)
    assert "cp -a /vols/db/_data/. /var/lib/gevulot/postgres/" in database
    assert "install -m 600 /vols/g/_data/node.key /var/lib/gevulot/key/node.key" in key
    assert refusals(existing, data=True, key=True) == []
    assert len(refusals(existing, key=True, postgres_url=URL)) == 0


def test_names_of_others_are_quoted_for_the_shell_and_fit_for_the_terminal() -> None:
    (text,) = refusals(unit(POSTGRES, "other", volumes=("/srv/$(reboot) \x1b[2J:/var/lib/postgresql/data",)))
    assert "cp -a '/srv/$(reboot)" in text
    assert "\x1b" not in text


# --- the fact


@pytest.mark.parametrize(("name", "path", "mark"), UNITS)
def test_every_template_has_the_text_by_which_its_file_is_known(name: str, path: str, mark: str) -> None:
    assert mark in (TEMPLATES / f"{path.lstrip('/')}.j2").read_text()


PODMAN = r"""#!/bin/sh
case "$1 $2" in
"container inspect")
  printf 'container gevulot-node running gevulot-node.service\nmounted /var/lib/gevulot /srv/node\n'; exit 125 ;;
"volume ls") echo "gevulot-db $VOLUME" ;;
esac
"""
SYSTEMCTL = r"""#!/bin/sh
printf 'Id=gevulot-node.service\nLoadState=loaded\nActiveState=active\nSourcePath=\nFragmentPath=/etc/x\n\n'
printf 'FragmentPath=/run/systemd/generator/p\nSourcePath=/etc/p\nId=gevulot-postgres.service\nLoadState=masked\n'
"""


def read(root: Path, *units: tuple[str, str, str]) -> ExistingNode:
    (root / "bin").mkdir(exist_ok=True)
    for name, text in (("podman", PODMAN), ("systemctl", SYSTEMCTL)):
        (root / "bin" / name).write_text(text)
        (root / "bin" / name).chmod(0o755)
    path = f"{root}/bin:{os.environ['PATH']}"
    command = ExistingNodeParts().command(units, "gevulot", (str(root / "deploy"), str(root / "former")))
    environment = os.environ | {"PATH": path, "VOLUME": str(root / "volume")}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return ExistingNodeParts().process(done.stdout.splitlines())


def test_a_file_is_ours_when_a_deploy_was_here_and_it_has_what_ours_have(tmp_path: Path) -> None:
    file = tmp_path / "gevulot-node.container"
    asked = (NODE, str(file), "EnvironmentFile=/etc/gevulot/node.env")
    assert read(tmp_path, asked).units[0].file == "missing"
    file.write_text("[Container]\nEnvironmentFile=/etc/gevulot/node.env\n")
    assert read(tmp_path, asked).units[0].file == "other", "no deploy was here"
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/before.json").write_text("{}")
    assert read(tmp_path, asked).units[0].file == "ours"
    file.write_text("[Container]\nImage=x\nVolume=/srv/node:/var/lib/gevulot:z\nEnvironment=PASSWORD=hunter2\n")
    known = read(tmp_path, asked).units[0]
    assert (known.file, known.volumes) == ("other", ("/srv/node:/var/lib/gevulot:z",))
    (tmp_path / "elsewhere").write_text("EnvironmentFile=/etc/gevulot/node.env\n")
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert read(tmp_path, asked).units[0].file == "other", "a link is nobody's but its owner's"


def test_a_node_whose_quadlets_lie_behind_a_link_is_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    (unit,) = read(tmp_path, (NODE, str(tmp_path / "linked/node.container"), "x")).units
    # Quadlet resolves the links of its directories.
    generated = replace(unit, file="ours", load="loaded", source=str(tmp_path / "real/node.container"))
    assert refusals(ExistingNode(units=(generated,))) == []
    assert len(refusals(ExistingNode(units=(replace(generated, source="/etc/other"),)))) == 1


def test_a_file_that_an_undo_brought_back_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "gevulot-node.container"
    file.write_text("EnvironmentFile=/etc/gevulot/node.env\n")
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/before.json").write_text("{}")
    archive = tmp_path / "deploy/before.tar"
    subprocess.run(["tar", "-C", "/", "-cf", archive, str(file).lstrip("/")], check=True)
    asked = (NODE, str(file), "EnvironmentFile=/etc/gevulot/node.env")
    assert read(tmp_path, asked).units[0].file == "other"
    file.write_text("EnvironmentFile=/etc/gevulot/node.env\n# of a deploy\n")
    assert read(tmp_path, asked).units[0].file == "ours"


def test_a_unit_of_others_that_has_one_of_ours_as_its_alias_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = """#!/bin/sh
printf 'Id=my-node.service\\nNames=my-node.service gevulot-node.service\\nLoadState=loaded\\nActiveState=active\\n'
printf 'FragmentPath=/etc/systemd/system/my-node.service\\nSourcePath=\\n\\nId=gevulot-postgres.service\\n'
printf 'Names=gevulot-postgres.service\\nLoadState=not-found\\nActiveState=inactive\\n'
"""
    monkeypatch.setattr(f"{__name__}.SYSTEMCTL", alias)
    known = read(tmp_path, (NODE, str(tmp_path / "n"), "x"), (POSTGRES, str(tmp_path / "p"), "x"))
    (text,) = refusals(replace(known, containers=()))
    assert text.startswith(f"{NODE} is made from /etc/systemd/system/my-node.service, which no deploy wrote")


def test_units_containers_and_volumes_are_read(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/PG_VERSION").write_text("16")
    state = read(tmp_path, (NODE, "/etc/n", "x"), (POSTGRES, "/etc/p", "x"))
    node, postgres = state.units
    assert (node.load, node.active, node.source) == ("loaded", "active", "/etc/x")
    assert (postgres.load, postgres.source) == ("masked", "/etc/p")
    assert state.containers == (container("gevulot-node", NODE, ("/var/lib/gevulot", "/srv/node")),)
    assert state.data == (("gevulot-db", str(tmp_path / "volume"), "database"),)
