"""Where the node's data is to lie: what is refused, in which words, and what is accepted as it is."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploys import settings
from deploys.assessment.verdict import Findings
from deploys.preflight.storage import judge_storage, list_directories, resolve_links
from facts.storage import Storage, StorageState

pytestmark = pytest.mark.commands

OWN = "/var/lib/gevulot"
EMPTY = Storage(
    real=OWN,
    parents={OWN: "missing", "/var/lib": "directory", "/var": "directory"},
    parts={f"{OWN}/postgres": "missing", f"{OWN}/key": "missing", f"{OWN}/data": "missing"},
    file_system="ext4",
    options=frozenset({"rw", "relatime"}),
    mount="/",
    used=False,
    package=("/var/lib", "base-files"),
)


def asked(directory: str = OWN, **keys: Any) -> settings.Settings:
    data = {"gevulot_psk_passphrase": "the own one", "gevulot_storage_directory": directory}
    return settings.read("gpu1", data | {f"gevulot_{key}": keys[key] for key in keys})


def refusals(storage: Storage, directory: str = OWN, key_state: str = "missing", **keys: Any) -> list[str]:
    findings = Findings()
    judge_storage(storage, asked(directory, **keys), key_state, findings)
    return findings.refusals


def test_a_directory_that_is_not_there_yet_is_accepted() -> None:
    assert refusals(EMPTY) == []


@pytest.mark.parametrize("entries", [(), ("lost+found",), ("data", "key", "postgres"), ("node.key", "log", "images")])
def test_an_empty_directory_and_one_of_a_node_are_accepted(entries: tuple[str, ...]) -> None:
    assert refusals(replace(EMPTY, entries=entries)) == []


def test_a_directory_with_files_of_others_is_refused_and_some_are_named() -> None:
    (text,) = refusals(replace(EMPTY, entries=("16", "\x1b[31mbackups", "c", "d", "data")))
    assert text.startswith(f"gevulot_storage_directory is {OWN}, which is not empty (")
    assert "…), and no deploy made it; expected a directory of its own" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("mark", [{"used": True}, {"key_state": "ok"}, {"key_state": "mode"}])
def test_the_directory_of_a_deployed_node_stays_its_own_whatever_else_lies_in_it(mark: dict[str, Any]) -> None:
    state = mark.pop("key_state", "missing")
    assert refusals(replace(EMPTY, entries=("data", "somebody's"), **mark), key_state=state) == []


@pytest.mark.parametrize(
    ("package", "words"),
    [((OWN, "postgresql-16"), "which belongs to the package postgresql-16"),
     (("/var/lib/systemd", "systemd"), "in /var/lib/systemd, which belongs to the package systemd")],
)  # fmt: skip
def test_a_directory_of_a_package_is_refused_even_when_it_is_empty(package: tuple[str, str], words: str) -> None:
    (text,) = refusals(replace(EMPTY, package=package))
    assert words in text


def test_a_home_is_refused_and_the_nodes_own_account_has_none_to_lose() -> None:
    (text,) = refusals(replace(EMPTY, homes=("alice",)))
    assert "the home of alice" in text
    assert refusals(replace(EMPTY, homes=("gevulot",))) == []


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [(OWN, "file", "which is no directory"), (OWN, "dangling", "which is a link to nothing"),
     ("/var/lib", "file", "but /var/lib is no directory"),
     ("/var/lib", "dangling", "but /var/lib is a link to nothing")],
)  # fmt: skip
def test_a_path_that_leads_to_no_directory_is_refused(path: str, kind: str, words: str) -> None:
    (text,) = refusals(replace(EMPTY, parents=EMPTY.parents | {path: kind}))
    assert words in text


@pytest.mark.parametrize("link", [OWN, "/var/lib"])
def test_a_link_to_a_data_disk_is_followed_and_its_own_path_is_used(link: str) -> None:
    storage = replace(EMPTY, real="/data/disk1/gevulot", parents=EMPTY.parents | {link: "link"})
    assert refusals(storage) == []
    used = resolve_links(asked(), storage)
    assert (used.storage_directory, used.key_directory) == ("/data/disk1/gevulot", "/data/disk1/gevulot/key")
    assert resolve_links(used, replace(storage, real="/data/disk1/gevulot")) is used


@pytest.mark.parametrize(
    "real", ["/usr/lib/x", "/etc/gevulot", "/home/alice", "/boot/efi", "/run/x", "/var/lib/containers/x"]
)
def test_a_link_into_the_system_is_refused_as_the_path_itself_would_be(real: str) -> None:
    (text,) = refusals(replace(EMPTY, real=real, parents=EMPTY.parents | {OWN: "link"}))
    assert text.startswith(f"gevulot_storage_directory is {OWN}, a link to {real}: expected a directory of its own")


def test_a_link_to_a_path_that_units_cannot_name_is_refused() -> None:
    (text,) = refusals(replace(EMPTY, real="/data/my disk", parents=EMPTY.parents | {OWN: "link"}))
    assert "a link to /data/my disk: expected an absolute path of plain characters" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [({"options": frozenset({"ro"})}, "mounted read-only; expected one that can be written"),
     ({"file_system": "tmpfs"}, "which a reboot empties; expected a disk"),
     ({"file_system": "vfat"}, "which keeps no owners and modes"),
     ({"file_system": "cifs"}, "which keeps no owners and modes"),
     ({"by_hand": True}, "which was mounted by hand; expected a volume that a boot mounts")],
)  # fmt: skip
def test_a_volume_that_cannot_keep_the_nodes_data_is_refused(change: dict[str, Any], words: str) -> None:
    (text,) = refusals(replace(EMPTY, mount="/data", **change))
    assert words in text
    assert "/data" in text


@pytest.mark.parametrize(
    ("volume", "shown", "by_hand"),
    [("ext4 rw,relatime /data", "ActiveState=active\nFragmentPath=", True),
     ("ext4 rw,relatime /data", "FragmentPath=/run/systemd/generator/data.mount\nActiveState=active", False),
     ("zfs rw,xattr /data", "ActiveState=active\nFragmentPath=", False),
     ("ext4 rw,relatime /", "ActiveState=active\nFragmentPath=", False),
     ("ext4 rw,relatime /data", "", False)],
)  # fmt: skip
def test_a_volume_that_no_boot_mounts_is_distinguished_from_the_others(
    place: Path, monkeypatch: pytest.MonkeyPatch, volume: str, shown: str, by_hand: bool
) -> None:
    programs = {"findmnt": volume, "systemd-escape": "data.mount", "systemctl": shown, "dpkg-query": ""}
    (place / "bin").mkdir()
    for name, text in programs.items():
        (place / "bin" / name).write_text(f"#!/bin/sh\ncat <<'E'\n{text}\nE\n")
        (place / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
    assert read(place / "s").by_hand is by_hand


def test_programs_need_not_be_started_from_the_volume() -> None:
    assert refusals(replace(EMPTY, options=frozenset({"rw", "noexec", "nosuid", "nodev"}))) == []


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
@pytest.mark.parametrize("part", ["postgres", "key", "data"])
def test_a_part_of_the_storage_that_is_no_directory_is_refused(kind: str, part: str) -> None:
    (text,) = refusals(replace(EMPTY, parts=EMPTY.parts | {f"{OWN}/{part}": kind}))
    assert text.startswith(f"{OWN}/{part} is ")


def test_a_database_directory_that_holds_no_database_is_refused() -> None:
    (text,) = refusals(replace(EMPTY, foreign=True))
    assert "has files, but none is PG_VERSION" in text
    assert refusals(replace(EMPTY, foreign=True), postgres_url="postgres://a:b@192.0.2.1/d") == []


def test_data_that_another_server_uses_is_not_touched() -> None:
    user = (77, "/system.slice/system-postgresql.slice/postgresql@16-main.service", "postgres")
    (text,) = refusals(replace(EMPTY, users=(user,)))
    assert f"{OWN}/postgres is in use by postgres (pid 77, postgresql@16-main.service)" in text
    own = (77, "/system.slice/gevulot-postgres.service/libpod-payload-0a", "postgres")
    assert refusals(replace(EMPTY, users=(own,))) == []


# --- the fact, on this machine


def read(directory: Path | str, quadlet: Path | str = "/nonexistent") -> Storage:
    places = list_directories(asked(str(directory)))
    command = StorageState().command(str(directory), places, str(quadlet))
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return StorageState().process(done.stdout.splitlines())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that settings accept and this machine has: only its name is checked."""
    monkeypatch.setattr("deploys.inputs.values._SYSTEM_DIRECTORIES", frozenset())
    return tmp_path


def test_a_path_that_is_not_there_yet_is_read_with_its_parents_and_its_volume(place: Path) -> None:
    storage = read(place / "a/b")
    assert storage.real == f"{place}/a/b"
    assert (storage.parents[f"{place}/a/b"], storage.parents[str(place)]) == ("missing", "directory")
    assert storage.file_system
    assert "rw" in storage.options
    assert not storage.used


def test_what_lies_in_it_is_read_unless_the_deployed_node_uses_it(place: Path) -> None:
    (place / "s/some thing").mkdir(parents=True)
    assert read(place / "s").entries == ("some thing",)
    (place / "quadlet").write_text(f"[Unit]\nRequiresMountsFor={place}/s\n")
    storage = read(place / "s", place / "quadlet")
    assert (storage.used, storage.entries) == (True, ())
    assert not read(place / "s/some", place / "quadlet").used


def test_links_are_distinguished_from_directories_and_from_links_to_nothing(place: Path) -> None:
    (place / "disk").mkdir()
    (place / "s").symlink_to(place / "disk")
    (place / "gone").symlink_to(place / "nothing")
    (place / "plain").write_text("")
    assert (read(place / "s").real, read(place / "s").parents[f"{place}/s"]) == (f"{place}/disk", "link")
    assert read(place / "gone/x").parents[f"{place}/gone"] == "dangling"
    assert read(place / "plain/x").parents[f"{place}/plain"] == "file"


def test_a_database_is_distinguished_from_other_files_and_its_users_are_found(place: Path) -> None:
    (place / "postgres/base").mkdir(parents=True)
    assert read(place).foreign
    (place / "postgres/PG_VERSION").write_text("16\n")
    storage = read(place)
    assert (storage.foreign, storage.users) == (False, ())
    with subprocess.Popen(["sleep", "60"], cwd=place / "postgres") as process:
        users = read(place).users
        process.kill()
    assert [(user[0], user[2]) for user in users] == [(process.pid, "sleep")]


@pytest.mark.skipif(not os.path.exists("/var/lib/dpkg/status"), reason="a machine of Debian's family")
def test_a_directory_of_a_package_is_known_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploys.inputs.values._OF_PACKAGES", frozenset())
    assert read("/var/lib/dpkg").package == ("/var/lib/dpkg", "dpkg")
    (place, _) = read("/var/lib/gevulot-that-is-not-there").package or ("", "")
    assert place == "/var/lib"
