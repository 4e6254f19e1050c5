"""Where a file would land: read by the fact's own command, on file systems of the test's, and judged."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from deploys.assessment.verdict import Findings
from deploys.preflight.places import judge_places
from facts.place import Place, Places

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can tell")


def read(*paths: Path, before: str = "") -> dict[str, Place]:
    """The places of these paths, in a mount namespace in which a shell line was executed before."""
    command = Places().command(paths=tuple(map(str, paths)))
    words = ["unshare", "-m", "sh", "-c", f"{before}\n{command}"] if before else ["sh", "-c", command]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return Places().process(done.stdout.splitlines())


def judged(places: dict[str, Place], *files: Path | str) -> Findings:
    findings = Findings()
    judge_places(places, tuple(map(str, files)), findings)
    return findings


@root
def test_what_is_in_a_files_place_is_named(tmp_path: Path) -> None:
    names = ("file", "link", "dangling", "loop", "directory", "fifo", "none/of/it")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    places = read(*(tmp_path / name for name in names))
    kinds = [places[str(tmp_path / name)].kind for name in names]
    assert kinds == ["file", "link", "link", "link", "directory", "special", ""]
    refusals = judged(places, *(tmp_path / name for name in names)).refusals
    assert [text.partition(";")[0] for text in refusals] == [
        f"{tmp_path}/directory is a directory",
        f"{tmp_path}/fifo is a device, socket or FIFO",
    ]


@root
@pytest.mark.parametrize("inside", ["file", "dangling"])
def test_what_stands_in_a_directorys_place_is_refused_once_for_all_its_files(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("gone")
    paths = [tmp_path / inside / name for name in ("a/one", "a/two")]
    (refusal,) = judged(read(*paths), *paths).refusals
    assert f"{tmp_path}/{inside} is no directory, or a link that leads nowhere" in refusal


@root
def test_a_file_with_several_names_is_reported(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    (warning,) = judged(read(tmp_path / "one"), tmp_path / "one").warnings
    assert f"{tmp_path}/one has 2 names" in warning


@root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_file_system_that_is_mounted_read_only_is_refused_once(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    paths = [tmp_path / "there/one", tmp_path / "there/new/two"]
    places = read(*paths, before=f"mount -t tmpfs -o ro none {tmp_path}/there")
    (refusal,) = judged(places, *paths).refusals
    assert f"the file system at {tmp_path}/there is mounted read-only" in refusal


@root
@pytest.mark.parametrize("protected", ["file", "."])
def test_what_not_even_root_can_change_is_refused(tmp_path: Path, protected: str) -> None:
    (tmp_path / "file").touch()
    if subprocess.run(["chattr", "+i", tmp_path / protected], capture_output=True).returncode != 0:
        pytest.skip("this file system has no attributes")
    try:
        (refusal,) = judged(read(tmp_path / "file"), tmp_path / "file").refusals
    finally:
        subprocess.run(["chattr", "-i", tmp_path / protected], check=True)
    assert f"{tmp_path}/{protected}".removesuffix("/.") in refusal
    assert "cannot be changed, even by root" in refusal


@root
def test_where_the_storage_lies_is_not_judged_here(tmp_path: Path) -> None:
    """That is for storage.py: two rules would refuse one thing twice."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("gone")
    assert judged(read(*(tmp_path / name for name in ("file", "file/key", "dangling", "dangling/key")))).refusals == []
    (tmp_path / "there").mkdir()
    places = read(tmp_path / "there/gevulot", before=f"mount -t tmpfs -o ro none {tmp_path}/there")
    assert judged(places).refusals == []


def test_a_protected_parent_of_a_storage_that_does_not_exist_yet_is_refused() -> None:
    places = {"/srv/gevulot": Place(locked="/srv"), "/srv/there": Place(kind="directory", locked="/srv")}
    (refusal,) = judged(places).refusals
    assert refusal.startswith("/srv cannot be changed, even by root; expected that the deploy can write /srv/gevulot")


QUADLET = "/etc/containers/systemd/gevulot-node.container"


@pytest.mark.parametrize(("mount", "late"), [("/", False), ("/etc", False), ("/etc/containers", True), ("/data", True)])
def test_a_quadlet_on_a_file_system_that_is_mounted_late_is_refused(mount: str, late: bool) -> None:
    refusals = judged({QUADLET: Place(mount)}, QUADLET).refusals
    assert [f"/etc/containers/systemd is on {mount}, which is mounted only after" in each for each in refusals] == (
        [True] if late else []
    )


def test_a_login_that_is_not_root_cannot_tell() -> None:
    assert Places().process(["place /etc/x", "locked /etc/x"]) == {}


@pytest.mark.parametrize("line", ["nonsense", "file many", ""])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(FactProcessError):
        Places().process(["root", "place /etc/x", line])
